package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// deadline bounds every wait of these tests.
const deadline = 30 * time.Second

// fakeRuntime is a container runtime that only answers what is asked before the kubelet starts.
type fakeRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	notReady string                   // why the runtime is not ready; ready if empty
	driver   *runtimeapi.CgroupDriver // as RuntimeConfig answers; unimplemented if nil
	config   string                   // as a verbose status shows it
	imageErr error
	pods     []*runtimeapi.PodSandbox
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	var found []*runtimeapi.PodSandbox
	for _, p := range f.pods {
		if r.GetFilter().GetState() == nil || p.State == r.Filter.State.State {
			found = append(found, p)
		}
	}
	return &runtimeapi.ListPodSandboxResponse{Items: found}, nil
}

func (f *fakeRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1"}, nil
}

func (f *fakeRuntime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	ready := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: f.notReady == "", Reason: f.notReady}
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Reason: "NoNetworkYet"} // the kubelet's own concern
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{ready, network}},
		Info:   map[string]string{"config": f.config},
	}, nil
}

func (f *fakeRuntime) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	if f.driver == nil {
		return nil, status.Error(codes.Unimplemented, "old")
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: *f.driver}}, nil
}

func (f *fakeRuntime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, f.imageErr
}

// serve answers on the endpoint until stop or the end of the test.
func (f *fakeRuntime) serve(t *testing.T, endpoint string) (stop func()) {
	t.Helper()
	path, err := socketPath(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, f)
	runtimeapi.RegisterImageServiceServer(server, f)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return server.Stop
}

// handClock stands still until advance moves it.
type handClock struct {
	mu     sync.Mutex // guards the fields below
	now    time.Time
	timers []handTimer
}

type handTimer struct {
	at time.Time
	c  chan time.Time
}

func newHandClock() *handClock { return &handClock{now: time.Unix(1_000_000, 0)} }

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := handTimer{c.now.Add(d), make(chan time.Time, 1)}
	c.timers = append(c.timers, timer)
	return timer.c
}

func (c *handClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	var left []handTimer
	for _, timer := range c.timers {
		if timer.at.After(c.now) {
			left = append(left, timer)
		} else {
			timer.c <- c.now
		}
	}
	c.timers = left
}

// pending counts the waits that end within d.
func (c *handClock) pending(d time.Duration) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, timer := range c.timers {
		if !timer.at.After(c.now.Add(d)) {
			n++
		}
	}
	return n
}

// trial is a Kubelet whose upstream part is replaced by channels.
type trial struct {
	*Kubelet
	t        *testing.T
	cancel   context.CancelFunc
	done     chan error
	launched chan string // the cgroup driver of each launch
	end      chan error  // what the launched kubelet returns
	settle   chan bool   // received once: the kubelet's status and CSINode were accepted
}

// goodHost is a machine with everything that a kubelet needs.
func goodHost() (Host, error) {
	return Host{CgroupVersion: 2, Controllers: []string{"cpu", "cpuset", "memory"}, SysResource: true, BootID: "boot"}, nil
}

// newTrial returns a Kubelet that is not started; change it, then call begin.
func newTrial(t *testing.T, stateDir string, clock Clock) *trial {
	t.Helper()
	sockets, err := os.MkdirTemp("", "kl") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	endpoint := "unix://" + filepath.Join(sockets, "cri.sock")
	k, err := New(Config{NodeName: "n", RootDir: t.TempDir(), StateDir: stateDir, RuntimeEndpoint: endpoint, Port: freePort(t), NodeIP: "10.0.0.7"},
		Deps{RESTConfig: &rest.Config{Host: "http://127.0.0.1:1"}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	tr := &trial{Kubelet: k, t: t, done: make(chan error, 1), launched: make(chan string, 1), end: make(chan error), settle: make(chan bool)}
	k.kmsg, k.detect = os.DevNull, goodHost
	k.launch = func(ctx context.Context, _ Host, driver string, o *observer) error {
		tr.launched <- driver
		for {
			select {
			case <-tr.settle:
				o.succeeded("GET", "/apis/storage.k8s.io/v1/csinodes/n")
				o.succeeded("PATCH", "/api/v1/nodes/n/status")
			case err := <-tr.end:
				return err
			case <-ctx.Done():
				return nil
			}
		}
	}
	return tr
}

func (tr *trial) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	tr.cancel = cancel
	ended := make(chan struct{})
	tr.t.Cleanup(func() { cancel(); <-ended }) // before its directory goes, in which it still writes
	go func() { defer close(ended); tr.done <- tr.run(ctx) }()
}

// expectEnd waits for run's result.
func (tr *trial) expectEnd() error {
	tr.t.Helper()
	select {
	case err := <-tr.done:
		return err
	case <-time.After(deadline):
		tr.t.Fatalf("Start did not return within %v; status %+v", deadline, tr.Status())
		return nil
	}
}

// expectLaunch waits for the launch and returns the cgroup driver.
func (tr *trial) expectLaunch() string {
	tr.t.Helper()
	select {
	case driver := <-tr.launched:
		return driver
	case <-time.After(deadline):
		tr.t.Fatalf("the kubelet was not started within %v; status %+v", deadline, tr.Status())
		return ""
	}
}

func (tr *trial) expectState(state State) Status {
	tr.t.Helper()
	eventually(tr.t, fmt.Sprintf("state %s", state), func() bool { return tr.Status().State == state })
	return tr.Status()
}

func (tr *trial) expectNoLaunch() {
	tr.t.Helper()
	select {
	case <-tr.launched:
		tr.t.Fatalf("the kubelet was started; status %+v", tr.Status())
	default:
	}
}

// eventually polls: what is waited for happens in goroutines and sockets of the code under test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("expected %s within %v", what, deadline)
		}
		<-time.After(time.Millisecond)
	}
}

func freePort(t *testing.T) int32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}
