package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// The bytes that an exec prints, and how much longer than from a stock kubelet that may take: four fifths of its rate.
const (
	tunnelBytes      = 1 << 30
	quickTunnelBytes = 64 << 20
	tunnelLimit      = 1 / 0.8
)

// measureTunnel has kubectl exec print a GiB from a pod on Tether's node and from one on a stock kubelet's, in turn, over
// WebSocket and over QUIC, and reads logs, which are one line, for the time of a first byte.
func measureTunnel(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	return s.down(s.relays(ctx))
}

func (s *system) relays(ctx context.Context) error {
	e, err := s.profiledEdge(ctx, "edge-tether")
	if err != nil {
		return err
	}
	if _, err := s.stockKubelet(ctx, "edge-stock"); err != nil {
		return err
	}
	for _, name := range []string{"edge-tether", "edge-stock"} {
		if err := s.deploy(ctx, name, name); err != nil {
			return err
		}
		if _, err := s.scale(ctx, name, 1); err != nil {
			return err
		}
	}
	for _, p := range []v1alpha1.Protocol{v1alpha1.ProtocolWebSocket, v1alpha1.ProtocolQUIC} {
		if err := s.carryBy(ctx, e, p); err != nil {
			return err
		}
		if err := s.answers(ctx, "deploy/edge-tether"); err != nil {
			return err
		}
		size := tunnelBytes
		if s.bench.quick {
			size = quickTunnelBytes
		}
		rates, firsts := map[string][]float64{}, map[string][]float64{}
		for range s.bench.times(true) {
			for _, name := range []string{"edge-tether", "edge-stock"} {
				took, err := s.kubectl(ctx, int64(size), "exec", "deploy/"+name, "--", "/demo", "zeros", strconv.Itoa(size))
				if err != nil {
					return err
				}
				rates[name] = append(rates[name], float64(size)/1e6/took.Seconds())
				if took, err = s.kubectl(ctx, -1, "logs", "deploy/"+name); err != nil {
					return err
				}
				firsts[name] = append(firsts[name], float64(took.Milliseconds()))
			}
		}
		if err := s.profile(ctx, e, fmt.Sprintf("exec-%s", p), func() error {
			_, err := s.kubectl(ctx, int64(size), "exec", "deploy/edge-tether", "--", "/demo", "zeros", strconv.Itoa(size))
			return err
		}); err != nil {
			return err
		}
		s.bench.figure(Figure{What: fmt.Sprintf("kubectl exec over %s", p), Unit: "MB/s", Values: rates["edge-tether"]})
		s.bench.figure(Figure{What: fmt.Sprintf("kubectl exec from a stock kubelet, beside %s", p), Unit: "MB/s", Values: rates["edge-stock"]})
		s.bench.figure(Figure{What: fmt.Sprintf("kubectl exec over %s, time over a stock kubelet's", p), Limit: atMost(tunnelLimit),
			Values: []float64{median(rates["edge-stock"]) / median(rates["edge-tether"])}})
		s.bench.figure(Figure{What: fmt.Sprintf("kubectl logs over %s, from start to end of kubectl", p), Unit: "ms", Values: firsts["edge-tether"]})
		s.bench.figure(Figure{What: fmt.Sprintf("kubectl logs from a stock kubelet, beside %s", p), Unit: "ms", Values: firsts["edge-stock"]})
	}
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

// kubectl runs kubectl and returns how long it took. want is how many bytes it must print; below 0 any but none.
func (s *system) kubectl(ctx context.Context, want int64, args ...string) (time.Duration, error) {
	program, err := cluster.Program(ctx, "kubectl")
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig", s.Control.Kubeconfig, "--cache-dir", filepath.Join(s.cluster.Dir(), "kubectl"), "-n", namespace}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, out)
	if e := cmd.Wait(); e != nil {
		return 0, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), e, said.String())
	}
	took := time.Since(start)
	if err == nil && (n == 0 || want >= 0 && n != want) {
		err = fmt.Errorf("kubectl %s printed %d bytes, expected %d", strings.Join(args, " "), n, want)
	}
	return took, err
}
