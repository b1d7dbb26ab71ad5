package keadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet notes on what it makes: on every sandbox, and on every container.
const (
	podLabel   = "io.kubernetes.pod.uid"
	graceLabel = "io.kubernetes.pod.terminationGracePeriod"
)

// defaultGrace is what Kubernetes gives a pod that asks for nothing.
const defaultGrace = 30 * time.Second

// slack is how long a runtime may take for what has no period of its own.
const slack = 2 * time.Minute

// podEnder ends the pods of a kubelet that runs no more.
type podEnder struct {
	runtime    runtimeapi.RuntimeServiceClient
	containers map[string][]*runtimeapi.Container // by sandbox
}

// endPods ends every pod of the kubelet, each container with the grace period of its pod, and returns how many there
// were. What is left in the runtime of pods that have ended goes too. A runtime that is not there has none.
func endPods(ctx context.Context, w IO, endpoint string) (int, error) {
	if socket, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
	}
	conn, err := dialRuntime(endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	e := &podEnder{runtime: runtimeapi.NewRuntimeServiceClient(conn)}
	pods, longest, err := e.list(ctx)
	if err != nil || len(pods) == 0 {
		return 0, err
	}
	running := 0
	for _, p := range pods {
		if p.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			running++
		}
	}
	if running > 0 {
		fmt.Fprintf(w.Err, "ending %d pods: their grace periods are of up to %s\n", running, longest)
	}
	failed := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() { failed[i] = e.end(ctx, p) })
	}
	wg.Wait()
	return running, errors.Join(failed...)
}

// list returns the pods and the longest grace period.
func (e *podEnder) list(ctx context.Context) (pods []*runtimeapi.PodSandbox, longest time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	sandboxes, err := e.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, 0, err
	}
	for _, p := range sandboxes.Items {
		if p.Labels[podLabel] != "" { // else it is somebody else's
			pods = append(pods, p)
		}
	}
	containers, err := e.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return nil, 0, err
	}
	e.containers = map[string][]*runtimeapi.Container{}
	for _, c := range containers.Containers {
		e.containers[c.PodSandboxId] = append(e.containers[c.PodSandboxId], c)
		if c.Labels[podLabel] != "" {
			longest = max(longest, grace(c))
		}
	}
	return pods, longest, nil
}

// end ends a pod. Its containers end together, and only then its network.
func (e *podEnder) end(ctx context.Context, p *runtimeapi.PodSandbox) error {
	failed := make([]error, len(e.containers[p.Id]))
	var wg sync.WaitGroup
	for i, c := range e.containers[p.Id] {
		wg.Go(func() {
			g := grace(c)
			ctx, cancel := context.WithTimeout(ctx, g+slack)
			defer cancel()
			_, failed[i] = e.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: int64(g / time.Second)})
		})
	}
	wg.Wait()
	err := errors.Join(failed...)
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	if err == nil {
		_, err = e.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id})
	}
	if err == nil {
		_, err = e.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
	}
	if err != nil {
		return fmt.Errorf("end pod %s/%s: %w", p.Metadata.GetNamespace(), p.Metadata.GetName(), err)
	}
	return nil
}

// grace is how long a container may take to end.
func grace(c *runtimeapi.Container) time.Duration {
	s, err := strconv.ParseUint(c.Annotations[graceLabel], 10, 31)
	if err != nil {
		return defaultGrace
	}
	return time.Duration(s) * time.Second
}
