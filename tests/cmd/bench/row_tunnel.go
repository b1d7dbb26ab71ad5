package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// The bytes that an exec prints or a pod serves, and how much longer than from a stock kubelet that may take: four fifths
// of its rate.
const (
	tunnelBytes      = 1 << 30
	quickTunnelBytes = 64 << 20
	tunnelLimit      = 1 / 0.8
)

// measureTunnel has kubectl exec print a GiB from a pod on Tether's node and from one on a stock kubelet's, in turn, over
// WebSocket and over QUIC, fetches as much through kubectl port-forward, follows logs, and reads logs, which are one line, for the time
// of a first byte.
func measureTunnel(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	return s.down(s.relays(ctx))
}

// relaying is the row's two nodes.
type relaying struct {
	*system
	edge  *stack.Edge
	hosts map[string]*cluster.EdgeHost
	stock *cluster.Process // the kubelet
	size  int
}

// The nodes, in the order of their turns.
var relayNodes = []string{"edge-tether", "edge-stock"}

func (s *system) relays(ctx context.Context) error {
	r := relaying{system: s, hosts: map[string]*cluster.EdgeHost{}, size: tunnelBytes}
	if s.bench.quick {
		r.size = quickTunnelBytes
	}
	var err error
	if r.edge, err = s.profiledEdge(ctx, "edge-tether"); err != nil {
		return err
	}
	if r.stock, err = s.stockKubelet(ctx, "edge-stock"); err != nil {
		return err
	}
	for _, name := range relayNodes {
		r.hosts[name] = s.cluster.Host(name)
		if err := s.deploy(ctx, name, name); err != nil {
			return err
		}
		if _, err := s.scale(ctx, name, 1); err != nil {
			return err
		}
	}
	for _, p := range []v1alpha1.Protocol{v1alpha1.ProtocolWebSocket, v1alpha1.ProtocolQUIC} {
		if err := s.carryBy(ctx, r.edge, p); err != nil {
			return err
		}
		if err := s.answers(ctx, "deploy/edge-tether"); err != nil {
			return err
		}
		if err := r.rates(ctx, p, "exec", nil, r.exec); err != nil {
			return err
		}
		if err := r.rates(ctx, p, "port-forward", nil, r.forward); err != nil {
			return err
		}
		if err := r.rates(ctx, p, "logs -f", r.renew, r.logs); err != nil {
			return err
		}
		if err := r.firsts(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// moved is what came from a node's pod, in what time, and what kubectl used of the processors.
type moved struct {
	bytes         int
	took, kubectl time.Duration
}

type move func(ctx context.Context, node string) (moved, error)

// exec has a pod print.
func (r *relaying) exec(ctx context.Context, node string) (moved, error) {
	took, kubectl, err := r.kubectlUsing(ctx, int64(r.size), "exec", "deploy/"+node, "--", "/demo", "zeros", strconv.Itoa(r.size))
	return moved{r.size, took, kubectl}, err
}

// forward fetches from a pod's server.
func (r *relaying) forward(ctx context.Context, node string) (moved, error) {
	cmd, err := r.kubectlCommand(ctx, "port-forward", "deploy/"+node, ":8080")
	if err != nil {
		return moved{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return moved{}, err
	}
	if err := cmd.Start(); err != nil {
		return moved{}, err
	}
	took, err := r.fetch(ctx, bufio.NewReader(out))
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait() // interrupted
	return moved{r.size, took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, err
}

// forwardedPort is what kubectl says of its own end.
var forwardedPort = regexp.MustCompile(`127\.0\.0\.1:([0-9]+) -> `)

// fetch asks for the bytes at the port that kubectl names in said, and drains that.
func (r *relaying) fetch(ctx context.Context, said *bufio.Reader) (time.Duration, error) {
	line, err := said.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("kubectl port-forward: %w", err)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	port := forwardedPort.FindStringSubmatch(line)
	if port == nil {
		return 0, fmt.Errorf("kubectl port-forward: expected the port that it listens on, found %q", line)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%s/zeros/%d", port[1], r.size), nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("ask a pod through kubectl port-forward: %w", err)
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || n != int64(r.size)) {
		err = fmt.Errorf("%s and %d bytes, expected %d", response.Status, n, r.size)
	}
	if err != nil {
		return 0, fmt.Errorf("ask a pod through kubectl port-forward: %w", err)
	}
	return time.Since(start), nil
}

// rates moves in turn from both nodes. The rates are of a machine that others may use at the same time; what the processes
// on the way used of the processors is not.
func (r *relaying) rates(ctx context.Context, p v1alpha1.Protocol, what string, prepare func(ctx context.Context, node string) error, move move) error {
	rates, used := map[string][]float64{}, map[string][]float64{}
	parts := map[string][]float64{} // by process
	for range r.bench.times(true) {
		for _, node := range relayNodes {
			if prepare != nil {
				if err := prepare(ctx, node); err != nil {
					return err
				}
			}
			before, err := r.used(node)
			if err != nil {
				return err
			}
			m, err := move(ctx, node)
			if err != nil {
				return err
			}
			after, err := r.used(node)
			if err != nil {
				return err
			}
			all := m.kubectl
			for process, u := range after {
				d := u.cpu - before[process].cpu
				all += d
				parts[process] = append(parts[process], perGiB(d, m.bytes))
			}
			rates[node] = append(rates[node], float64(m.bytes)/1e6/m.took.Seconds())
			used[node] = append(used[node], perGiB(all, m.bytes))
		}
	}
	if prepare != nil {
		if err := prepare(ctx, "edge-tether"); err != nil {
			return err
		}
	}
	if err := r.profile(ctx, r.edge, fmt.Sprintf("%s-%s", strings.Fields(what)[0], p), func() error {
		_, err := move(ctx, "edge-tether")
		return err
	}); err != nil {
		return err
	}
	figure := r.bench.figure
	figure(Figure{What: fmt.Sprintf("kubectl %s over %s", what, p), Unit: "MB/s", Values: rates["edge-tether"]})
	figure(Figure{What: fmt.Sprintf("kubectl %s from a stock kubelet, beside %s", what, p), Unit: "MB/s", Values: rates["edge-stock"]})
	figure(Figure{What: fmt.Sprintf("kubectl %s over %s, time over a stock kubelet's", what, p), Limit: atMost(tunnelLimit),
		Values: []float64{median(rates["edge-stock"]) / median(rates["edge-tether"])}})
	figure(Figure{What: fmt.Sprintf("kubectl %s over %s, processor time of all on the way", what, p), Unit: "s/GiB", Values: used["edge-tether"], Note: medians(parts)})
	figure(Figure{What: fmt.Sprintf("kubectl %s from a stock kubelet, beside %s, processor time of all on the way", what, p), Unit: "s/GiB", Values: used["edge-stock"]})
	figure(Figure{What: fmt.Sprintf("kubectl %s over %s, processor time over a stock kubelet's", what, p),
		Values: []float64{median(used["edge-tether"]) / median(used["edge-stock"])}})
	return nil
}

func perGiB(d time.Duration, bytes int) float64 {
	return d.Seconds() * (1 << 30) / float64(bytes)
}

// medians lists the median of each, by name.
func medians(of map[string][]float64) string {
	var all []string
	for name, values := range of {
		all = append(all, fmt.Sprintf("%s %s", name, number(median(values))))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// used reads what the processes between kubectl and a node's pod have used, by name. What carries a container's output to
// containerd is the same on both nodes and not among them.
func (r *relaying) used(node string) (map[string]usage, error) {
	apiserver, err := child(r.Control.PID(), "kube-apiserver")
	if err != nil {
		return nil, err
	}
	pids := map[string]int{"kube-apiserver": apiserver, "containerd": r.hosts[node].Containerd().PID()}
	if node == "edge-tether" {
		if pids["edgecore"], err = r.edge.CorePID(); err != nil {
			return nil, err
		}
		pids["cloudcore"] = r.Cloud.PID()
	} else {
		pids["stock kubelet"] = r.stock.PID()
	}
	all := map[string]usage{}
	for name, pid := range pids {
		if all[name], err = used(pid); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// firsts reads logs of one line in turn from both nodes.
func (r *relaying) firsts(ctx context.Context, p v1alpha1.Protocol) error {
	for _, node := range relayNodes {
		if err := r.renew(ctx, node); err != nil {
			return err
		}
	}
	firsts := map[string][]float64{}
	for range r.bench.times(true) {
		for _, node := range relayNodes {
			took, err := r.kubectl(ctx, -1, "logs", "deploy/"+node)
			if err != nil {
				return err
			}
			firsts[node] = append(firsts[node], float64(took.Milliseconds()))
		}
	}
	r.bench.figure(Figure{What: fmt.Sprintf("kubectl logs over %s, from start to end of kubectl", p), Unit: "ms", Values: firsts["edge-tether"]})
	r.bench.figure(Figure{What: fmt.Sprintf("kubectl logs from a stock kubelet, beside %s", p), Unit: "ms", Values: firsts["edge-stock"]})
	return nil
}

// carryBy starts edgecore anew with a protocol.
func (s *system) carryBy(ctx context.Context, e *stack.Edge, p v1alpha1.Protocol) error {
	if err := e.Supervisor.Stop(30 * time.Second); err != nil {
		return err
	}
	if err := e.SetProtocol(p); err != nil {
		return err
	}
	if err := e.StartCore(ctx); err != nil {
		return err
	}
	return until(ctx, poll, readyTimeout, "a link over "+string(p), func() error {
		st, err := e.Status(ctx)
		if err == nil && (!st.Link.Synced || st.Link.Protocol != string(p)) {
			err = fmt.Errorf("it is %+v", st.Link)
		}
		return err
	})
}

// answers waits until a pod can be asked: a kubelet that has just started does not know its pods yet.
func (s *system) answers(ctx context.Context, pod string) error {
	return until(ctx, poll, readyTimeout, "an answer of the pod", func() error {
		_, err := s.kubectl(ctx, -1, "exec", pod, "--", "/demo", "zeros", "1")
		return err
	})
}

// kubectlCommand is kubectl as the admin, in the namespace of the pods.
func (s *system) kubectlCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	program, err := cluster.Program(ctx, "kubectl")
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, program, append([]string{"--kubeconfig", s.Control.Kubeconfig, "--cache-dir", filepath.Join(s.cluster.Dir(), "kubectl"), "-n", namespace}, args...)...), nil
}

// kubectl runs kubectl and returns how long it took. want is how many bytes it must print; below 0 any but none.
func (s *system) kubectl(ctx context.Context, want int64, args ...string) (time.Duration, error) {
	took, _, err := s.kubectlUsing(ctx, want, args...)
	return took, err
}

// kubectlUsing is kubectl, and returns what it used of the processors, too.
func (s *system) kubectlUsing(ctx context.Context, want int64, args ...string) (took, cpu time.Duration, err error) {
	cmd, err := s.kubectlCommand(ctx, args...)
	if err != nil {
		return 0, 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	n, err := io.Copy(io.Discard, out)
	if e := cmd.Wait(); e != nil {
		return 0, 0, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), e, said.String())
	}
	took = time.Since(start)
	if err == nil && (want < 0 && n == 0 || want >= 0 && n != want) {
		err = fmt.Errorf("kubectl %s printed %d bytes, expected %d", strings.Join(args, " "), n, want)
	}
	return took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}
