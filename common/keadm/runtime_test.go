package keadm

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// fakeRuntime is a container runtime.
type fakeRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	name, version string
	driver        *runtimeapi.CgroupDriver // as RuntimeConfig answers; nil is a runtime from before that call
	config        string                   // as a verbose status shows it
	silent        bool                     // about its status
}

func (f *fakeRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: f.name, RuntimeVersion: f.version}, nil
}

func (f *fakeRuntime) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	if f.silent || !r.Verbose {
		return nil, status.Error(codes.Unavailable, "starting")
	}
	return &runtimeapi.StatusResponse{Info: map[string]string{"config": f.config}}, nil
}

func (f *fakeRuntime) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	if f.driver == nil {
		return nil, status.Error(codes.Unimplemented, "old")
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: *f.driver}}, nil
}

// serve makes it the runtime of the machine that p looks at.
func (f *fakeRuntime) serve(t *testing.T, p *preflight) {
	t.Helper()
	socket := filepath.Join(p.root, "cri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	put(t, p.root, socket, "") // where a socket of this path is below that root
	p.config.Kubelet.ContainerRuntimeEndpoint = "unix://" + socket
}

func TestPreflightAsksTheRuntime(t *testing.T) {
	systemd, cgroupfs := runtimeapi.CgroupDriver_SYSTEMD, runtimeapi.CgroupDriver_CGROUPFS
	const old = `{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":{"SystemdCgroup":true}}}}}`
	for name, c := range map[string]struct {
		runtime fakeRuntime
		named   v1alpha1.CgroupDriver
		runc    string
		want    string // the finding, empty for none
	}{
		"all is well":                   {fakeRuntime{name: "containerd", version: "v2.0.1", driver: &systemd}, v1alpha1.CgroupSystemd, "1.2.3", ""},
		"the driver is asked":           {fakeRuntime{name: "containerd", version: "v2.0.1", driver: &systemd}, v1alpha1.CgroupAuto, "1.1.0", ""},
		"another driver is named":       {fakeRuntime{name: "containerd", version: "v2.0.1", driver: &systemd}, v1alpha1.CgroupCgroupfs, "1.2.3", "cgroup-driver"},
		"and the other way round":       {fakeRuntime{name: "cri-o", version: "1.31.0", driver: &cgroupfs}, v1alpha1.CgroupSystemd, "1.2.3", "cgroup-driver"},
		"another than old containerd's": {fakeRuntime{name: "containerd", version: "1.6.20~ds1", config: old}, v1alpha1.CgroupCgroupfs, "1.2.3", "cgroup-driver"},
		"old containerd's":              {fakeRuntime{name: "containerd", version: "1.6.20~ds1", config: old}, v1alpha1.CgroupSystemd, "1.2.3", ""},
		"a runtime that does not tell":  {fakeRuntime{name: "other", version: "0.1"}, v1alpha1.CgroupSystemd, "1.2.3", ""},
		"a runtime that starts":         {fakeRuntime{name: "other", version: "0.1", driver: &systemd, silent: true}, v1alpha1.CgroupCgroupfs, "1.2.3", ""},
		"old containerd":                {fakeRuntime{name: "containerd", version: "1.5.9", driver: &systemd}, v1alpha1.CgroupAuto, "1.2.3", "runtime"},
		"old runc":                      {fakeRuntime{name: "containerd", version: "v2.0.1", driver: &systemd}, v1alpha1.CgroupAuto, "1.0.0~rc93+ds1", "runc"},
		"runc of a version in words":    {fakeRuntime{name: "containerd", version: "v2.0.1", driver: &systemd}, v1alpha1.CgroupAuto, "spec", ""},
	} {
		root, p := sound(t)
		c.runtime.serve(t, p)
		p.config.Kubelet.CgroupDriver = c.named
		runcSays(t, root, "runc version "+c.runc+"\ncommit: abc\n")
		found := names(p.run(t.Context()))
		if f, ok := found[c.want]; len(found) > 1 || ok != (c.want != "") || ok && (!f.Error || f.Found == "" || f.Remedy == "") || !ok && len(found) > 0 {
			t.Errorf("%s: expected %q, found %+v", name, c.want, found)
		}
	}
}

func TestAMachineWithoutRuncHasAnotherProgram(t *testing.T) {
	_, p := sound(t)
	t.Setenv("PATH", t.TempDir())
	if f, ok := names(p.run(t.Context()))["runc"]; ok {
		t.Errorf("found %+v", f)
	}
}
