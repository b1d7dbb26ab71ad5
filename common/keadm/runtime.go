package keadm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	v, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		add(true, "runtime", fmt.Sprintf("%s does not speak CRI v1: %v", endpoint, err),
			"remove \"cri\" from disabled_plugins in /etc/containerd/config.toml and restart containerd; expected containerd 1.6 or later")
		return
	}
	if v.RuntimeName == "containerd" && tooOld(v.RuntimeVersion, 1, 6) {
		add(true, "runtime", "containerd "+v.RuntimeVersion, "install containerd 1.6 or later")
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
