package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
)

// subject is a pod on a node whose server prints one line, with a container that repeats what it hears, and perhaps further ones.
func (s *system) subject(name, node string, further ...corev1.Container) *corev1.Pod {
	s.t.Helper()
	p := demoPod(name)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "listener", Image: p.Spec.Containers[0].Image, Args: []string{"cat", "/dev/stdin"}, Stdin: true, StdinOnce: false})
	p.Spec.Containers = append(p.Spec.Containers, further...)
	p.Spec.NodeName = node
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].ImagePullPolicy = corev1.PullIfNotPresent
	}
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	_, err := s.Admin.CoreV1().Pods(namespace).Create(s.t.Context(), p, metav1.CreateOptions{})
	s.must(err)
	return s.waitPod(name, time.Minute, podReady)
}

// others runs a pod on each node whose containers have a past: one has ended well, and one failed and was started anew.
func (s *system) others() {
	s.t.Helper()
	for _, node := range compared {
		p := demoPod("other-" + node)
		p.Spec.NodeName, p.Spec.RestartPolicy, p.Spec.TerminationGracePeriodSeconds = node, corev1.RestartPolicyOnFailure, new(int64(1))
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers = []corev1.Container{
			{Name: "ended", Image: images.Demo, Args: []string{"cat", "/etc/hostname"}},
			// It fails once and no more: a kubelet removes the ones before, and for a moment its status names one that is gone.
			{Name: "again", Image: images.Demo, Args: []string{"again", "/data/marker"}, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}},
		}
		_, err := s.Admin.CoreV1().Pods(namespace).Create(s.t.Context(), p, metav1.CreateOptions{})
		s.must(err)
	}
	for _, node := range compared {
		s.logged("it was here before", "other-"+node, "-c", "again")
		s.logged("no such file", "other-"+node, "-c", "again", "--previous") // once the cluster knows which one that is
	}
}

// logged waits until kubectl logs prints a text.
func (s *system) logged(want string, args ...string) {
	s.t.Helper()
	cluster.Eventually(s.t, 2*time.Minute, fmt.Sprintf("%q in the logs of %q", want, args), func() error {
		if r := s.kubectl("", append([]string{"logs"}, args...)...); r.code != 0 || !strings.Contains(r.out, want) {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// alike are things that differ between two nodes, or two runs, and do not matter.
var alike = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}|https://[0-9.:]+|\b[EWI][0-9]{4} [0-9:.]+ +[0-9]+ |:[0-9]{4,5}\b`)

// plain is what kubectl said of a node, without its name.
func (r said) plain(node string) said {
	text := func(s string) string { return alike.ReplaceAllString(strings.ReplaceAll(s, node, "NODE"), "_") }
	return said{r.code, text(r.out), text(r.err)}
}

// compared are the nodes of which kubectl is to say the same.
var compared = []string{"edge-1", "stock-1"}

// same fails the test unless kubectl said the same of both nodes, with a code and a text in either output.
func (s *system) same(what string, got []said, code int, want string) {
	s.t.Helper()
	edge, stock := got[0].plain(compared[0]), got[1].plain(compared[1])
	if edge.code != code || !strings.Contains(edge.out+edge.err, want) {
		s.t.Errorf("%s: exit code %d, %q, %q; expected code %d and %q", what, edge.code, edge.out, edge.err, code, want)
	}
	if edge != stock {
		s.t.Errorf("%s differs:\nedge:  %+v\nstock: %+v", what, edge, stock)
	}
}

// TestNobodyCanTellAnEdgePodByKubectl: each verb says the same of a pod at the edge as of one on a stock kubelet's node.
func TestNobodyCanTellAnEdgePodByKubectl(t *testing.T) {
	s := sharedSystem(t)
	s.verbs()
}

// TestKubectlThroughAProxy: the same where the edge's way to the cloud is a proxy. (Over QUIC there is none.)
func TestKubectlThroughAProxy(t *testing.T) {
	s := sharedSystem(t)
	p := s.connectProxy()
	through := func(proxy string) {
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.Change(func(cfg *v1alpha1.EdgeCore) { cfg.Cloud.Proxy, cfg.Cloud.Protocol = proxy, v1alpha1.ProtocolWebSocket }))
		s.must(s.edge.StartCore(context.Background()))
	}
	through("http://" + p.address)
	t.Cleanup(func() {
		through("")
		s.must(s.edge.Supervisor.Stop(20 * time.Second))
		s.must(s.edge.SetProtocol(protocol))
	})
	s.must(s.edge.WaitReady(t.Context(), time.Minute))
	s.eventuallyStatus(time.Minute, "the edge to be connected", `"synced":true`)
	s.verbs()
	// One carries the link, another the streams.
	if n := p.connects.Load(); n < 2 {
		t.Errorf("%d connections went through the proxy, expected 2 at least", n)
	}
}

// verbs compares what kubectl says of pods on both nodes.
func (s *system) verbs() {
	s.t.Helper()
	s.stock("stock-1")
	for _, node := range compared {
		s.subject("on-"+node, node, corev1.Container{Name: "console", Image: images.Demo, Args: []string{"cat", "/dev/stdin"}, Stdin: true, TTY: true})
	}
	s.others()
	dir := s.t.TempDir()
	local := filepath.Join(dir, "local")
	s.must(os.WriteFile(local, []byte("some content\n"), 0o644))
	tree := filepath.Join(dir, "tree")
	s.must(os.MkdirAll(filepath.Join(tree, "deep", "er"), 0o755))
	for name, content := range files {
		s.must(os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644))
	}
	for _, c := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		want  string // in either output
	}{
		{"logs", "", []string{"logs", "on-NODE", "-c", "demo"}, 0, "demo: serving on"},
		{"the last line of logs", "", []string{"logs", "on-NODE", "-c", "demo", "--tail=1", "--timestamps"}, 0, "demo: serving on"},
		{"logs -f of a container that has ended", "", []string{"logs", "-f", "other-NODE", "-c", "ended"}, 0, "other-NODE"},
		{"logs of the container before", "", []string{"logs", "other-NODE", "-c", "again", "--previous"}, 0, "no such file"},
		{"logs of a container before the first", "", []string{"logs", "on-NODE", "-c", "demo", "-p"}, 1, "previous terminated container"},
		{"logs of a container that is not there", "", []string{"logs", "on-NODE", "-c", "nobody"}, 1, "nobody"},
		{"logs of a pod that is not there", "", []string{"logs", "nobody-NODE"}, 1, "not found"},
		{"exec", "", []string{"exec", "on-NODE", "-c", "demo", "--", "/demo", "cat", "/etc/hostname"}, 0, "on-NODE"},
		{"exec with input", "what I say", []string{"exec", "-i", "on-NODE", "-c", "demo", "--", "/demo", "cat", "/dev/stdin"}, 0, "what I say"},
		{"the exit code of exec", "", []string{"exec", "on-NODE", "-c", "demo", "--", "/demo", "exit", "3"}, 3, "exit code 3"},
		{"exec of nothing", "", []string{"exec", "on-NODE", "-c", "demo", "--", "/nothing"}, 1, "nothing"},
		{"exec in a container that is not there", "", []string{"exec", "on-NODE", "-c", "nobody", "--", "/demo"}, 1, "nobody"},
		{"exec in a container that has ended", "", []string{"exec", "other-NODE", "-c", "ended", "--", "/demo", "exit", "0"}, 1, "ended"},
		{"exec in a pod that is not there", "", []string{"exec", "nobody-NODE", "--", "/demo"}, 1, "not found"},
		{"attach to a container that has ended", "", []string{"attach", "other-NODE", "-c", "ended"}, 1, "ended"},
		{"attach to a container that is not there", "", []string{"attach", "on-NODE", "-c", "nobody"}, 1, "nobody"},
		{"cp to the pod", "", []string{"cp", local, "on-NODE:/data/copied", "-c", "demo"}, 0, ""},
		{"what was copied", "", []string{"exec", "on-NODE", "-c", "demo", "--", "/demo", "cat", "/data/copied"}, 0, "some content"},
		{"cp from the pod", "", []string{"cp", "on-NODE:/data/copied", filepath.Join(dir, "on-NODE"), "-c", "demo"}, 0, ""},
		{"cp of a file that is not there", "", []string{"cp", "on-NODE:/data/nothing", filepath.Join(dir, "nothing"), "-c", "demo"}, 1, "no such file"},
		{"cp of a directory to the pod", "", []string{"cp", tree, "on-NODE:/data/tree", "-c", "demo"}, 0, ""},
		{"what was copied below it", "", []string{"exec", "on-NODE", "-c", "demo", "--", "/demo", "cat", "/data/tree/deep/er/file"}, 0, "the deepest"},
		{"cp of a directory from the pod", "", []string{"cp", "on-NODE:/data/tree", filepath.Join(dir, "tree-on-NODE"), "-c", "demo"}, 0, ""},
		{"the kubelet's health", "", []string{"get", "--raw", "/api/v1/nodes/NODE/proxy/healthz"}, 0, "ok"},
		{"a path that the kubelet has not", "", []string{"get", "--raw", "/api/v1/nodes/NODE/proxy/nothing"}, 1, "could not find"},
	} {
		var got []said
		for _, node := range compared {
			args := make([]string, len(c.args))
			for i, a := range c.args {
				args[i] = strings.ReplaceAll(a, "NODE", node)
			}
			got = append(got, s.kubectl(c.stdin, args...))
		}
		s.same(c.name, got, c.code, c.want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "on-edge-1")); err != nil || string(b) != "some content\n" {
		s.t.Errorf("copied back: %q, %v", b, err)
	}
	for name, content := range files {
		if b, err := os.ReadFile(filepath.Join(dir, "tree-on-edge-1", name)); err != nil || string(b) != content {
			s.t.Errorf("of the directory, %s was copied back as %q, %v", name, b, err)
		}
	}
	if r := s.kubectl("", "get", "--raw", "/api/v1/nodes/edge-1/proxy/runningpods/"); r.code != 0 || !strings.Contains(r.out, `"on-edge-1"`) {
		s.t.Errorf("the pods that run: %+v", r) // in no order, so not compared
	}
	var terminals, refusals []said
	for _, node := range compared {
		s.forwards("on-" + node)
		s.attachesAndFollows("on-" + node)
		refusals = append(refusals, s.forwardsToNobody("on-"+node))
		terminals = append(terminals, s.terminal("on-"+node, "exec", "-it", "on-"+node, "-c", "demo", "--", "/demo", "cat", "/etc/hostname", "/dev/stdin"))
	}
	s.same("port-forward to a port that nobody serves", refusals, 1, "refused")
	s.same("exec -it", terminals, 0, "typed\r\ntyped\r\n")
	s.tops()
	s.debugs()
	var attached []said
	for _, node := range compared {
		attached = append(attached, s.terminal("try pressing enter", "attach", "-it", "on-"+node, "-c", "console"))
	}
	s.same("attach -it", attached, 0, "typed\r\ntyped\r\n")
}

// files are those of the directory that is copied.
var files = map[string]string{"file": "at its top\n", "deep/er/file": "the deepest\n", "deep/empty": ""}

// tops compares what kubectl top says of both nodes, but for the figures.
func (s *system) tops() {
	s.t.Helper()
	s.metricsServer("--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname", "--kubelet-insecure-tls")
	for _, args := range [][]string{{"pod", "on-NODE"}, {"pod", "on-NODE", "--containers"}, {"node", "NODE"}} {
		var got []said
		for _, node := range compared {
			args := slices.Clone(args)
			for i, a := range args {
				args[i] = strings.ReplaceAll(a, "NODE", node)
			}
			r := s.eventuallyTop(`[0-9]+m +([0-9]+% +)?[0-9]+Mi`, args...)
			r.out = spaces.ReplaceAllString(figures.ReplaceAllString(r.out, "N$1"), " ")
			got = append(got, r)
		}
		s.same("top "+strings.Join(args, " "), got, 0, "Nm")
	}
}

var (
	figures = regexp.MustCompile(`\b[0-9]+(m|Mi|%)`)
	spaces  = regexp.MustCompile(` +`)
)

// debugs adds ephemeral containers to the pods of both nodes: one looks at the processes of the container that it is for, and
// one is talked to. No container of the pod is started anew.
func (s *system) debugs() {
	s.t.Helper()
	var before []map[string]string
	ids := func(pod string) map[string]string {
		p, err := s.Admin.CoreV1().Pods(namespace).Get(s.t.Context(), pod, metav1.GetOptions{})
		s.must(err)
		out := map[string]string{}
		for _, c := range p.Status.ContainerStatuses {
			out[c.Name] = c.ContainerID
		}
		return out
	}
	var added, looked, talked []said
	for _, node := range compared {
		pod := "on-" + node
		before = append(before, ids(pod))
		added = append(added, s.kubectl("", "debug", pod, "--image", images.Demo, "--target=demo", "-c", "looker", "--", "/demo", "cat", "/proc/1/cmdline"))
		s.waitPod(pod, time.Minute, func(p *corev1.Pod) error {
			for _, c := range p.Status.EphemeralContainerStatuses {
				if c.Name == "looker" && c.State.Terminated != nil {
					return nil
				}
			}
			return fmt.Errorf("its ephemeral containers are %+v", p.Status.EphemeralContainerStatuses)
		})
		looked = append(looked, s.kubectl("", "logs", pod, "-c", "looker"))
		talked = append(talked, s.terminal("pressing enter", "debug", "-it", pod, "--image", images.Demo, "--target=demo", "-c", "talker", "--", "/demo", "cat", "/dev/stdin"))
	}
	s.same("debug", added, 0, "")
	s.same("what an ephemeral container sees of its target", looked, 0, "/demo")
	s.same("debug -it", talked, 0, "typed\r\ntyped\r\n")
	for i, node := range compared {
		if now := ids("on-" + node); !maps.Equal(now, before[i]) {
			s.t.Errorf("the containers of on-%s were %v, are %v", node, before[i], now)
		}
	}
}

// forwardsToNobody has kubectl port-forward to a port that nobody serves, and connects.
func (s *system) forwardsToNobody(pod string) said {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := s.kubectlCommand(ctx, "port-forward", "--address=127.0.0.1", "pod/"+pod, ":9")
	out, err := cmd.StdoutPipe()
	s.must(err)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	s.must(cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	port := forwarded(s.t, out)
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	s.must(err)
	defer c.Close()
	s.must(c.SetDeadline(time.Now().Add(30 * time.Second)))
	if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("from a port that nobody serves came %q, %v", b, err)
	}
	rest, err := io.ReadAll(out)
	s.must(err)
	_ = cmd.Wait() // its code is looked at
	plain := strings.NewReplacer(port, "PORT")
	return said{cmd.ProcessState.ExitCode(), plain.Replace(string(rest)), plain.Replace(errs.String())}
}

// forwarded reads the local port from what kubectl port-forward says first.
func forwarded(t *testing.T, out io.Reader) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := out.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`127\.0\.0\.1:([0-9]+) ->`).FindSubmatch(b[:n])
	if m == nil {
		t.Fatalf("port-forward said %q", b[:n])
	}
	return string(m[1])
}

// terminal runs kubectl in a terminal. Once it has said hello, a line is typed; once that was repeated, the input ends.
func (s *system) terminal(hello string, args ...string) said {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	ptm, pts := s.pty()
	defer ptm.Close()
	cmd := s.kubectlCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pts, pts, pts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	s.must(cmd.Start())
	s.must(pts.Close())
	var all strings.Builder
	b := make([]byte, 1024)
	typed, ended := false, false
	for {
		n, err := ptm.Read(b)
		all.Write(b[:n])
		if err != nil {
			break // the last who had the terminal open is gone
		}
		if !typed && strings.Contains(all.String(), hello) {
			// kubectl says hello before it takes the terminal over: until then the terminal itself repeats what is typed.
			cluster.Eventually(s.t, time.Minute, "kubectl to take the terminal over", func() error {
				state, err := unix.IoctlGetTermios(int(ptm.Fd()), unix.TCGETS)
				if err == nil && state.Lflag&unix.ECHO != 0 {
					err = errors.New("it echoes")
				}
				return err
			})
			_, err := io.WriteString(ptm, "typed\n")
			s.must(err)
			typed = true
		}
		if !ended && strings.Count(all.String(), "typed") >= 2 {
			_, err := io.WriteString(ptm, "\x04")
			s.must(err)
			ended = true
		}
	}
	_ = cmd.Wait() // its code is looked at
	return said{cmd.ProcessState.ExitCode(), all.String(), ""}
}

// pty opens a terminal.
func (s *system) pty() (ptm, pts *os.File) {
	s.t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	s.must(err)
	s.must(unix.IoctlSetPointerInt(int(ptm.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(ptm.Fd()), unix.TIOCGPTN)
	s.must(err)
	pts, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	s.must(err)
	return ptm, pts
}

// connectProxy is an HTTP proxy that knows CONNECT.
type connectProxy struct {
	address  string
	connects atomic.Int32
}

func (s *system) connectProxy() *connectProxy {
	s.t.Helper()
	host, _, err := net.SplitHostPort(s.Server())
	s.must(err)
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	s.must(err)
	p := &connectProxy{address: l.Addr().String()}
	srv := &http.Server{Handler: p}
	go func() { _ = srv.Serve(l) }() // until it is closed
	s.t.Cleanup(func() { s.must(srv.Close()) })
	return p
}

// ServeHTTP relays a connection until either end closes it.
func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "expected CONNECT", http.StatusMethodNotAllowed)
		return
	}
	to, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, rest, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	p.connects.Add(1)
	if _, err := io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{}, 2)
	relay := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from) // the end of one direction ends both
		done <- struct{}{}
	}
	go relay(to, rest)
	go relay(from, to)
	<-done
}

// forwards asks a pod's server through kubectl port-forward.
func (s *system) forwards(pod string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	cmd := s.kubectlCommand(ctx, "port-forward", "pod/"+pod, ":8080")
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	port := forwarded(s.t, out)
	for range 3 {
		r, err := http.Get("http://127.0.0.1:" + port + "/")
		s.must(err)
		body, err := io.ReadAll(r.Body)
		s.must(errors.Join(err, r.Body.Close()))
		if !strings.Contains(string(body), pod) {
			s.t.Errorf("through port-forward the pod's server answers %q, expected its name", body)
		}
	}
}

// attachesAndFollows says a line to a container that repeats what it hears, through attach, and reads it from there and
// from logs -f.
func (s *system) attachesAndFollows(pod string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	begin := func(args ...string) (in io.Writer, out io.Reader) {
		cmd := s.kubectlCommand(ctx, args...)
		in, err := cmd.StdinPipe()
		s.must(err)
		out, err = cmd.StdoutPipe()
		s.must(err)
		s.must(cmd.Start())
		s.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
		return in, out
	}
	_, logs := begin("logs", "-f", pod, "-c", "listener")
	in, heard := begin("attach", "-i", pod, "-c", "listener")
	line := "a line for " + pod
	_, err := io.WriteString(in, line+"\n")
	s.must(err)
	for what, r := range map[string]io.Reader{"attach": heard, "logs -f": logs} {
		var all strings.Builder
		b := make([]byte, 1024)
		for !strings.Contains(all.String(), line) {
			n, err := r.Read(b)
			all.Write(b[:n])
			if err != nil {
				s.t.Fatalf("%s of %s ended with %q: %v", what, pod, all.String(), err)
			}
		}
	}
}
