package keadm

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/cri"
)

// dialRuntime connects to the CRI socket.
func dialRuntime(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

func (p *preflight) runtime(ctx context.Context, add adder) {
	endpoint := p.config.Kubelet.ContainerRuntimeEndpoint
	const remedy = "install and start one: apt-get install containerd; another socket is named with --remote-runtime-endpoint"
	if socket, ok := strings.CutPrefix(endpoint, "unix://"); ok && !p.exists(socket) {
		add(true, "runtime", "no container runtime: "+socket+" is not there", remedy)
		return
	}
	conn, err := dialRuntime(endpoint)
	if err != nil {
		add(true, "runtime", err.Error(), remedy)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	v, err := client.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		add(true, "runtime", fmt.Sprintf("%s does not speak CRI v1: %v", endpoint, err),
			"remove \"cri\" from disabled_plugins in /etc/containerd/config.toml and restart containerd; expected containerd 1.6 or later")
		return
	}
	if v.RuntimeName == "containerd" && tooOld(v.RuntimeVersion, 1, 6) {
		add(true, "runtime", "containerd "+v.RuntimeVersion, "install containerd 1.6 or later")
	}
	p.cgroupDriver(ctx, client, add)
}

// cgroupDriver holds the driver that was named against the runtime's: with two, what limits and ends a pod's processes
// is not where they are.
func (p *preflight) cgroupDriver(ctx context.Context, client runtimeapi.RuntimeServiceClient, add adder) {
	named := string(p.config.Kubelet.CgroupDriver)
	if named == string(v1alpha1.CgroupAuto) {
		return
	}
	verbose, err := client.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return // a runtime that is not ready yet is edgecore's to wait for
	}
	if driver, err := cri.CgroupDriver(ctx, client, verbose); err == nil && driver != "" && driver != named {
		add(true, "cgroup-driver", fmt.Sprintf("the container runtime's cgroup driver is %s, --cgroupdriver names %s", driver, named),
			"leave --cgroupdriver out, and the runtime is asked; or change the runtime's (containerd: SystemdCgroup)")
	}
}

// runc looks at the runc that a container runtime would find. None is no fault: there are other such programs.
func (p *preflight) runc(ctx context.Context, add adder) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "runc", "--version").Output()
	if err != nil {
		return
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if version, ok := strings.CutPrefix(line, "runc version "); ok && tooOld(version, 1, 1) {
		add(true, "runc", "runc "+version, "install runc 1.1 or later: older ones are not mended any more")
	}
}

// tooOld reports whether a version is below major.minor. One that cannot be read is not.
func tooOld(version string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a < major || a == major && b < minor
}
