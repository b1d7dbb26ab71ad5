package kubelet

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podlabels "k8s.io/kubelet/pkg/types"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"

	"github.com/tether-edge/tether/common/cri"
)

// probeTimeout bounds one look at the runtime.
const probeTimeout = 5 * time.Second

// runtimeInfo is what a runtime that answered said.
type runtimeInfo struct {
	Name, Version string
	// CgroupDriver is cgroupfs or systemd; empty if the runtime does not say.
	CgroupDriver string
}

// probeRuntime asks the runtime and the image service what the kubelet will ask them first. An error means that a
// kubelet started now would end the process. Connections are made anew each time: a socket that was replaced is noticed.
func probeRuntime(ctx context.Context, runtimeEndpoint, imageEndpoint string) (runtimeInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := dial(ctx, runtimeEndpoint)
	if err != nil {
		return runtimeInfo{}, err
	}
	defer conn.Close()
	client := runtimeapi.NewRuntimeServiceClient(conn)

	version, err := client.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return runtimeInfo{}, fmt.Errorf("ask the runtime at %s for its version: %w", runtimeEndpoint, err)
	}
	info := runtimeInfo{Name: version.RuntimeName, Version: version.RuntimeVersion}
	state, err := client.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return runtimeInfo{}, fmt.Errorf("ask the runtime at %s for its status: %w", runtimeEndpoint, err)
	}
	for _, condition := range state.GetStatus().GetConditions() {
		if condition.Type == runtimeapi.RuntimeReady && !condition.Status {
			return runtimeInfo{}, fmt.Errorf("the runtime at %s says that it is not ready: %s: %s", runtimeEndpoint, condition.Reason, condition.Message)
		}
	}
	if info.CgroupDriver, err = cri.CgroupDriver(ctx, client, state); err != nil {
		return runtimeInfo{}, fmt.Errorf("ask the runtime at %s for its cgroup driver: %w", runtimeEndpoint, err)
	}

	images, err := dial(ctx, imageEndpoint)
	if err != nil {
		return runtimeInfo{}, err
	}
	defer images.Close()
	if _, err := runtimeapi.NewImageServiceClient(images).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err != nil {
		return runtimeInfo{}, fmt.Errorf("ask the image service at %s for its file system: %w", imageEndpoint, err)
	}
	return info, nil
}

// dial connects to a socket that somebody listens on. gRPC by itself would log each refused connection.
func dial(ctx context.Context, endpoint string) (*grpc.ClientConn, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	probe, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	probe.Close()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return conn, nil
}

// RunningPods are the uids of the pods that have a sandbox in the runtime, but for static ones: those that a kubelet would end
// if its API server had no such pod.
func RunningPods(ctx context.Context, runtimeEndpoint string) ([]types.UID, error) {
	list, err := sandboxes(ctx, runtimeEndpoint)
	var uids []types.UID
	for _, s := range list {
		uid := s.Labels[podlabels.KubernetesPodUIDLabel]
		if uid != "" && s.Annotations[kubetypes.ConfigSourceAnnotationKey] == kubetypes.ApiserverSource {
			uids = append(uids, types.UID(uid))
		}
	}
	return uids, err
}

// RunningNames returns the uids of all pods that the runtime runs, by namespace/name.
func RunningNames(ctx context.Context, runtimeEndpoint string) (map[string][]types.UID, error) {
	list, err := sandboxes(ctx, runtimeEndpoint)
	names := map[string][]types.UID{}
	for _, s := range list {
		if m := s.Metadata; m != nil {
			names[m.Namespace+"/"+m.Name] = append(names[m.Namespace+"/"+m.Name], types.UID(m.Uid))
		}
	}
	return names, err
}

// sandboxes returns those that are up.
func sandboxes(ctx context.Context, runtimeEndpoint string) ([]*runtimeapi.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := dial(ctx, runtimeEndpoint)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime at %s for its pods: %w", runtimeEndpoint, err)
	}
	return list.Items, nil
}
