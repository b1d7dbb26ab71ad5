package keadm

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podRuntime is a container runtime with pods in it. It notes what it was told to end.
type podRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	pods       []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
	stuck      bool

	mu    sync.Mutex // guards ended
	ended []string
}

func (r *podRuntime) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, fmt.Sprintf(format, args...))
}

func (r *podRuntime) ListPodSandbox(_ context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, p := range r.pods {
		if want := q.Filter.GetState(); want == nil || p.State == want.State {
			out.Items = append(out.Items, p)
		}
	}
	return out, nil
}

func (r *podRuntime) ListContainers(_ context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		if uid := q.Filter.GetLabelSelector()[podLabel]; uid == "" || c.Labels[podLabel] == uid {
			out.Containers = append(out.Containers, c)
		}
	}
	return out, nil
}

func (r *podRuntime) StopContainer(_ context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if r.stuck {
		return nil, status.Error(codes.Unknown, "it does not end")
	}
	r.note("container %s within %d s", q.ContainerId, q.Timeout)
	return &runtimeapi.StopContainerResponse{}, nil
}

func (r *podRuntime) StopPodSandbox(_ context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	r.note("pod %s", q.PodSandboxId)
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *podRuntime) RemovePodSandbox(context.Context, *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// onePod is a runtime with a kubelet's pod of two containers, and something that is nobody's pod.
func onePod(t *testing.T) (*podRuntime, string) {
	t.Helper()
	pod := func(id string, labels map[string]string) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{Id: id, Labels: labels, Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "default", Name: id}}
	}
	label := map[string]string{podLabel: "uid"}
	evicted := pod("evicted", label)
	evicted.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	r := &podRuntime{pods: []*runtimeapi.PodSandbox{pod("web", label), pod("other", nil), evicted}, containers: []*runtimeapi.Container{
		{Id: "slow", PodSandboxId: "web", Labels: label, Annotations: map[string]string{graceLabel: "90"}},
		{Id: "plain", PodSandboxId: "web", Labels: label},
		{Id: "foreign", PodSandboxId: "other"},
	}}
	socket := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, r)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return r, "unix://" + socket
}

// oneBridge is a machine's only bridge.
type oneBridge struct {
	name    string
	plugged []string
}

func (b *oneBridge) ports(bridge string) ([]string, bool, error) {
	return b.plugged, b.name == bridge, nil
}

func (b *oneBridge) remove(bridge string) error {
	if b.name == bridge {
		b.name = ""
	}
	return nil
}

// resetter is a machine that joined, and reset on it with --config only. What reset prints comes to the buffer.
func resetter(t *testing.T) (*edgeReset, *podRuntime, *bytes.Buffer) {
	t.Helper()
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	cfg := edgecore(t, files, allWell, joinPort(t, ca))
	root := t.TempDir()
	runtime, endpoint := onePod(t)
	cfg.Kubelet.ContainerRuntimeEndpoint, cfg.Kubelet.RootDir, cfg.Kubelet.CgroupRoot = endpoint, filepath.Join(root, "kubelet"), "/no/such"
	writeEdgeConfig(t, files, cfg)
	put(t, files.data, "store/edge.db", "")
	put(t, files.data, "seal/keys.json", "")
	put(t, root, "kubelet/pods/uid/etc-hosts", "")
	put(t, root, "var/log/pods/web/0.log", "")
	put(t, root, "proc/7/comm", "bash\n")
	out := &bytes.Buffer{}
	// The flags' defaults are another node's.
	other := edgeFiles{config: files.config, data: filepath.Join(root, "other-data"), pki: filepath.Join(root, "other-pki")}
	put(t, other.data, "store/edge.db", "")
	put(t, other.pki, "node.key", "")
	r := &edgeReset{w: IO{Out: out, Err: out, Now: time.Now}, root: root, files: other, links: &oneBridge{},
		run: func(context.Context, string, ...string) ([]byte, error) { return nil, exec.ErrNotFound }}
	return r, runtime, out
}

// reset looks and does.
func (r *edgeReset) reset(t *testing.T) error {
	t.Helper()
	if err := r.look(t.Context(), serviceProcess); err != nil {
		return err
	}
	return r.do(t.Context())
}

// tree lists what is below directories.
func tree(dirs ...string) (paths []string) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				paths = append(paths, path)
			}
			return nil
		})
	}
	return paths
}

func TestResetFindsEverythingByTheConfiguration(t *testing.T) {
	r, runtime, out := resetter(t)
	others := tree(r.files.data, r.files.pki)
	home := filepath.Dir(r.files.config)
	if err := r.reset(t); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := tree(home); len(left) > 1 {
		t.Errorf("left: %q", left)
	}
	if left := tree(filepath.Join(r.root, "kubelet"), filepath.Join(r.root, "var/log/pods")); len(left) > 0 {
		t.Errorf("of the kubelet's are left: %q", left)
	}
	if now := tree(filepath.Join(r.root, "other-data"), filepath.Join(r.root, "other-pki")); !slices.Equal(now, others) {
		t.Errorf("of the directories that the flags name by default are left %q, expected %q", now, others)
	}
	// Of a pod that has ended already only what is left is removed, and it is not counted.
	slices.Sort(runtime.ended)
	if want := []string{"container plain within 30 s", "container slow within 90 s", "pod evicted", "pod web"}; !slices.Equal(runtime.ended, want) {
		t.Errorf("ended %q, expected %q", runtime.ended, want)
	}
	want := "ending 1 pods: their grace periods are of up to 1m30s\nended    1 pods\nremoved  node edge-1 from the cluster\nremoved  configuration "
	if said := out.String(); !strings.HasPrefix(said, want) || strings.Contains(said, "stopped") {
		t.Errorf("said\n%s", said)
	}
}

func TestResetHearsFlagsBeforeTheConfiguration(t *testing.T) {
	r, _, out := resetter(t)
	r.dataSaid, r.pkiSaid, r.keepNode = true, true, true
	put(t, r.files.data, "a-file-of-somebody", "")
	if err := r.reset(t); err != nil {
		t.Fatal(err)
	}
	if left := tree(r.files.data, r.files.pki); !slices.Equal(left, []string{r.files.data, filepath.Join(r.files.data, "a-file-of-somebody")}) {
		t.Errorf("left: %q", left)
	}
	if home := filepath.Dir(r.files.config); !isThere(filepath.Join(home, "data/store")) || !isThere(filepath.Join(home, "pki/node.key")) {
		t.Errorf("of what the configuration names is left: %q", tree(home))
	}
	if !strings.Contains(out.String(), "left     what else is in "+r.files.data) || strings.Contains(out.String(), "removed  node") {
		t.Errorf("said\n%s", out)
	}
}

func TestResetRefusesWhatMayBeAnothersAndTouchesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(r *edgeReset)
		want []string
	}{
		"not root": {func(r *edgeReset) { r.user = 1000 }, []string{"expected root, found user id 1000"}},
		"no node here": {func(r *edgeReset) {
			r.files = edgeFiles{config: "/no/such/c.yaml", data: "/no/such/data", pki: "/no/such/pki"}
		}, []string{"is no edge node: expected", "/no/such/c.yaml", "/no/such/data", "/no/such/pki", "--config, --data-dir and --pki-dir"}},
		"a configuration that cannot be read": {func(r *edgeReset) { put(t, "/", r.files.config, "kind: Nothing\n") }, []string{"Nothing", "--config"}},
		"a kubelet":                           {func(r *edgeReset) { runs(t, r.root, "9", "kubelet") }, []string{"kubelet runs as process 9", "end it first"}},
		"another edgecore": {func(r *edgeReset) { runs(t, r.root, "9", "edgecore", "--config", "/other.yaml") },
			[]string{"edgecore runs as process 9 with --config /other.yaml", "none but the edgecore of"}},
	} {
		r, runtime, out := resetter(t)
		home := filepath.Dir(r.files.config)
		c.harm(r)
		before := tree(home, r.root)
		err := r.reset(t)
		if err == nil || !strings.HasSuffix(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: expected %q in: %v", name, w, err)
			}
		}
		if after := tree(home, r.root); !slices.Equal(before, after) || len(runtime.ended) > 0 || out.Len() > 0 {
			t.Errorf("%s: ended %q, said %q, files before\n%q\nand after\n%q", name, runtime.ended, out, before, after)
		}
	}
}

func TestResetLeavesAServiceOfAnotherConfigurationAlone(t *testing.T) {
	s := &service{kind: serviceSystemd, name: "edgecore", config: "/a.yaml", units: t.TempDir(), state: t.TempDir()}
	if config := s.foreign(); config != "" {
		t.Errorf("without a unit: %q", config)
	}
	put(t, s.units, "edgecore.service", "[Service]\nExecStart=/usr/local/bin/edgecore --config /b.yaml\n")
	if _, err := s.remove(t.Context()); err == nil || !strings.Contains(err.Error(), "expected /a.yaml, found /b.yaml") || !isThere(s.unit()) {
		t.Errorf("%v", err)
	}
	s.config = "/b.yaml"
	if config := s.foreign(); config != "" {
		t.Errorf("its own unit: %q", config)
	}
}

// Half a join, or half a reset: without a configuration no pod is known to be this node's.
func TestResetOfHalfAJoinTouchesNoPod(t *testing.T) {
	r, runtime, out := resetter(t)
	r.files.config = filepath.Join(r.root, "none.yaml")
	kubelets := tree(filepath.Join(r.root, "kubelet"), filepath.Join(r.root, "var/log"))
	if err := r.reset(t); err != nil {
		t.Fatal(err)
	}
	if left := tree(r.files.data, r.files.pki); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if now := tree(filepath.Join(r.root, "kubelet"), filepath.Join(r.root, "var/log")); !slices.Equal(now, kubelets) || len(runtime.ended) > 0 {
		t.Errorf("of a kubelet is left %q, ended %q", now, runtime.ended)
	}
	if said := out.String(); !strings.Contains(said, "pods, if there are any, stay") || strings.Contains(said, "ended") || strings.Contains(said, "stopped") ||
		!strings.HasSuffix(said, "removed  data in "+r.files.data+", key and certificates in "+r.files.pki+"\n") {
		t.Errorf("said\n%s", said)
	}
}

func TestResetTouchesNothingOfAnEdgecoreThatItCannotStop(t *testing.T) {
	a := newNodesAPI(func(string) error { return nil })
	r, runtime, out := drainingResetter(t, a)
	runs(t, r.root, "9", "edgecore", "--config", r.files.config)
	put(t, r.root, "proc/9/status", "Name:\tedgecore\nPPid:\t1\nUid:\t0\n")
	err := r.reset(t)
	if err == nil || !strings.Contains(err.Error(), "edgecore runs as process 9") || !strings.HasSuffix(err.Error(), "nothing was changed") {
		t.Errorf("%v", err)
	}
	if len(a.Actions()) > 0 || len(runtime.ended) > 0 || out.Len() > 0 || !isThere(r.files.key()) {
		t.Errorf("at the API did %q, ended %q, said %q", a.did, runtime.ended, out)
	}
}

// What a reset could not finish, the next one does: the configuration is there until then.
func TestAResetThatFailedIsRunAgain(t *testing.T) {
	r, runtime, _ := resetter(t)
	runtime.stuck = true
	if err := r.reset(t); err == nil || !strings.Contains(err.Error(), "end pod default/web") || !isThere(r.files.config) || !isThere(r.cfg.Cloud.KeyFile) {
		t.Errorf("%v", err)
	}
	runtime.stuck = false
	if err := r.reset(t); err != nil || isThere(r.files.config) {
		t.Errorf("%v", err)
	}
}

// A supervisor is stopped if it is the one of this configuration; a number from before a reboot may be anybody's.
func TestStopTellsWhetherAnythingRan(t *testing.T) {
	for line, want := range map[string]bool{"supervise /c.yaml": true, "supervise /d.yaml": false, "something /c.yaml": false} {
		s := &service{kind: serviceProcess, name: "edgecore", config: "/c.yaml", state: t.TempDir()}
		p := exec.CommandContext(t.Context(), "sh", append([]string{"-c", "echo; read x"}, strings.Fields(line)...)...)
		in, err := p.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		// For a moment after its start a program has no command line.
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Wait() }()
		put(t, s.state, "edgecore-supervisor.pid", fmt.Sprint(p.Process.Pid))
		if ran, err := s.stop(t.Context()); ran != want || err != nil {
			t.Errorf("%q: ran %t, %v", line, ran, err)
		}
		_ = in.Close()
		if err := <-ended; (err != nil && strings.Contains(err.Error(), "signal")) != want {
			t.Errorf("%q: it ended with %v", line, err)
		}
	}
}

func TestResetRemovesThePodNetworkOfJoin(t *testing.T) {
	r, _, out := resetter(t)
	dump, err := os.ReadFile("testdata/nat.txt")
	if err != nil {
		t.Fatal(err)
	}
	var ran []string
	r.run = func(_ context.Context, input string, argv ...string) ([]byte, error) {
		ran = append(ran, strings.Join(argv, " "))
		switch argv[0] {
		case "iptables-save":
			return dump, nil
		case "iptables-restore":
			if !strings.Contains(input, "-X CNI-HOSTPORT-DNAT\n") {
				t.Errorf("restores %s", input)
			}
		}
		return nil, nil
	}
	if err := writeNetwork(IO{Out: out}, r.root, "10.1.2.0/24"); err != nil {
		t.Fatal(err)
	}
	bridge := &oneBridge{name: "tether0"}
	r.links = bridge
	put(t, r.root, "proc/sys/net/ipv4/ip_forward", "1\n")
	put(t, r.root, "var/lib/cni/networks/tether/10.1.2.2", "id\n")
	put(t, r.root, "var/lib/cni/results/tether-id-eth0", "{}")
	if err := r.reset(t); err != nil {
		t.Fatal(err)
	}
	if left := tree(filepath.Join(r.root, "var/lib"), filepath.Join(r.root, networkDir)); len(left) != 2 {
		t.Errorf("left: %q", left)
	}
	want := []string{"iptables-save -t nat", "iptables-restore --noflush --wait 5", "ip6tables-save -t nat"}
	if !slices.Equal(ran[:min(3, len(ran))], want) || bridge.name != "" {
		t.Errorf("ran %q, the bridge is %q", ran, bridge.name)
	}
	for _, want := range []string{"removed  the pod network tether, its bridge tether0 and", "left     net.ipv4.ip_forward at 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("expected %q in\n%s", want, out)
		}
	}
}

func TestResetLeavesAPodNetworkThatWasThere(t *testing.T) {
	r, _, out := resetter(t)
	put(t, r.root, networkDir+"/10-other.conflist", `{"name":"other","plugins":[{"type":"bridge","bridge":"tether0"}]}`)
	bridge := &oneBridge{name: "tether0"}
	r.links = bridge
	put(t, r.root, "var/lib/cni/networks/tether/10.1.2.2", "id\n")
	if err := writeNetwork(IO{Out: out}, r.root, "10.1.2.0/24"); err != nil {
		t.Fatal(err)
	}
	r.run = func(_ context.Context, _ string, argv ...string) ([]byte, error) {
		if strings.HasSuffix(argv[0], "-save") {
			t.Errorf("ran %q", argv)
		}
		return nil, nil
	}
	before := tree(filepath.Join(r.root, "var/lib"), filepath.Join(r.root, networkDir))
	if err := r.reset(t); err != nil {
		t.Fatal(err)
	}
	if after := tree(filepath.Join(r.root, "var/lib"), filepath.Join(r.root, networkDir)); !slices.Equal(before, after) || bridge.name == "" || strings.Contains(out.String(), "pod network tether") {
		t.Errorf("before %q, after %q\n%s", before, after, out)
	}
}

func TestResetLeavesABridgeThatIsInUse(t *testing.T) {
	r, _, _ := resetter(t)
	if err := writeNetwork(IO{Out: &bytes.Buffer{}}, r.root, "10.1.2.0/24"); err != nil {
		t.Fatal(err)
	}
	bridge := &oneBridge{name: "tether0", plugged: []string{"veth1"}}
	r.links = bridge
	if err := r.reset(t); err == nil || !strings.Contains(err.Error(), "found veth1") || bridge.name == "" || !isThere(filepath.Join(r.root, networkDir, networkFile)) {
		t.Errorf("%v", err)
	}
}

// The dump is of a machine with two networks: a pod of tether with a port and one of another network with or without one.
func TestOnlyTheRulesOfTheNetworkAreRemoved(t *testing.T) {
	b, err := os.ReadFile("testdata/nat.txt")
	if err != nil {
		t.Fatal(err)
	}
	dump := string(b)
	want := `*nat
-D POSTROUTING -s 10.1.2.3/32 -m comment --comment "name: \"tether\" id: \"aaaa\"" -j CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-D OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-D POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-F CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-F CNI-DN-0aaaaaaaaaaaaaaaaaaaa
-F CNI-HOSTPORT-DNAT
-F CNI-HOSTPORT-MASQ
-F CNI-HOSTPORT-SETMARK
-X CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-X CNI-DN-0aaaaaaaaaaaaaaaaaaaa
-X CNI-HOSTPORT-DNAT
-X CNI-HOSTPORT-MASQ
-X CNI-HOSTPORT-SETMARK
COMMIT
`
	sorted := func(s string) string {
		lines := strings.Split(s, "\n")
		slices.Sort(lines[1 : 1+strings.Count(s, "\n-D ")])
		return strings.Join(lines, "\n")
	}
	if got := leftRules(dump, "tether"); sorted(got) != sorted(want) {
		t.Errorf("got\n%s\nexpected\n%s", got, want)
	}
	port := `-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"other\" id: \"bbbb\"" -m multiport --dports 81 -j CNI-DN-0bbbbbbbbbbbbbbbbbbbb` + "\n"
	got := leftRules(strings.Replace(dump, "COMMIT\n", port+"COMMIT\n", 1), "tether")
	wantWithPort := `*nat
-D POSTROUTING -s 10.1.2.3/32 -m comment --comment "name: \"tether\" id: \"aaaa\"" -j CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"tether\" id: \"aaaa\"" -m multiport --dports 8080 -j CNI-DN-0aaaaaaaaaaaaaaaaaaaa
-F CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-F CNI-DN-0aaaaaaaaaaaaaaaaaaaa
-X CNI-0aaaaaaaaaaaaaaaaaaaaaaa
-X CNI-DN-0aaaaaaaaaaaaaaaaaaaa
COMMIT
`
	if sorted(got) != sorted(wantWithPort) {
		t.Errorf("where another network has a port: got\n%s\nexpected\n%s", got, wantWithPort)
	}
	if got := leftRules("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", "tether"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
