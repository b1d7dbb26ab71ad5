package keadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A mirror pod stands in the API for a static one, whose uid at the runtime is the hash of its manifest.
const (
	mirrorMark = corev1.MirrorPodAnnotationKey
	staticHash = "kubernetes.io/config.hash"
)

func newCtlRestart(w IO) *cobra.Command {
	var f ctlFlags
	var container string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "restart POD",
		Short: "Restart the containers of a pod, here and now",
		Long: "Stop the containers of a pod, each with the pod's grace period and without preStop hooks; the kubelet starts them again in\n" +
			"the same pod, and their restart count rises. The pod keeps its name, its address and its volumes, and the cluster is not\n" +
			"asked: it works offline. Returns when all of them are ready. What ran for less than 10 minutes may be started with a delay.\n\n" +
			"Refused where the kubelet would not start them again: a pod with another restart policy than Always.",
		Args: expects("a pod", cobra.ExactArgs(1)),
	}
	f.in(c)
	c.Flags().StringVarP(&container, "container", "c", "", "only this container (default: all of the pod, but for init containers)")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for them to be ready again, beside the grace period")
	c.PreRunE = func(*cobra.Command, []string) error { return positive("timeout", timeout) }
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		pod, err := g.pod(ctx, f.namespace, args[0])
		if err != nil {
			return err
		}
		targets, err := restartable(pod, container)
		if err != nil {
			return err
		}
		if err := g.kubeletRuns(ctx); err != nil {
			return err
		}
		stopped, longest, err := stopContainers(ctx, w, g.cfg.Kubelet.ContainerRuntimeEndpoint, pod, targets)
		if err != nil {
			return err
		}
		return g.waitRestarted(ctx, w, pod, stopped, longest+timeout)
	})
	return c
}

// restartable returns the names of the containers to stop, or the reason why not.
func restartable(pod *corev1.Pod, named string) ([]string, error) {
	switch {
	case pod.DeletionTimestamp != nil:
		return nil, fmt.Errorf("pod %s is being ended already", pod.Name)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return nil, fmt.Errorf("pod %s is over (%s): it does not start again; delete it in the cluster, and what made it makes another one", pod.Name, pod.Status.Phase)
	}
	var names []string
	check := func(c corev1.Container) error {
		policy := cmp.Or(string(pod.Spec.RestartPolicy), string(corev1.RestartPolicyAlways))
		if c.RestartPolicy != nil {
			policy = string(*c.RestartPolicy)
		}
		if policy != string(corev1.RestartPolicyAlways) {
			return fmt.Errorf("container %s of pod %s has the restart policy %s: stopped like this, it might not be started again, and the pod would be over; delete the pod in the cluster, and what made it makes another one",
				c.Name, pod.Name, policy)
		}
		names = append(names, c.Name)
		return nil
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name != named {
			continue
		}
		if c.RestartPolicy == nil {
			return nil, fmt.Errorf("container %s of pod %s is an init container: it runs once, before the others", named, pod.Name)
		}
		return []string{named}, check(c)
	}
	for _, c := range pod.Spec.Containers {
		if named != "" && c.Name != named {
			continue
		}
		if err := check(c); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("container %s is not valid for pod %s", named, pod.Name)
	}
	return names, nil
}

// kubeletRuns makes sure that there is somebody to start what is stopped.
func (g *gateway) kubeletRuns(ctx context.Context) error {
	st, err := askStatus(ctx, g.cfg)
	if err != nil {
		return fmt.Errorf("nothing was stopped: edgecore does not say how its kubelet is: %w", err)
	}
	if st.Kubelet.State != kubeletRunning {
		return fmt.Errorf("nothing was stopped: the kubelet, which would start the containers again, is %s", st.Kubelet.describe(time.Now()))
	}
	return nil
}

// stopContainers ends those that run, together, and returns their names and the longest grace period.
func stopContainers(ctx context.Context, w IO, endpoint string, pod *corev1.Pod, targets []string) (names []string, longest time.Duration, err error) {
	conn, err := dialRuntime(endpoint)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	uid := string(pod.UID)
	if pod.Annotations[mirrorMark] != "" {
		uid = cmp.Or(pod.Annotations[staticHash], uid)
	}
	list, err := runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}, LabelSelector: map[string]string{podLabel: uid}}})
	if err != nil {
		return nil, 0, fmt.Errorf("ask the container runtime at %s: %w", endpoint, err)
	}
	running := slices.DeleteFunc(list.Containers, func(c *runtimeapi.Container) bool { return !slices.Contains(targets, c.Metadata.GetName()) })
	if len(running) == 0 {
		return nil, 0, fmt.Errorf("none of the containers %s of pod %s runs: the kubelet starts them by itself, and waits longer each time that they end; 'keadm ctl describe pod %s' says why",
			strings.Join(targets, ", "), pod.Name, pod.Name)
	}
	failed := make([]error, len(running))
	var wg sync.WaitGroup
	for i, c := range running {
		g := grace(c)
		longest = max(longest, g)
		names = append(names, c.Metadata.GetName())
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, g+slack)
			defer cancel()
			_, failed[i] = runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: int64(g / time.Second)})
		})
	}
	fmt.Fprintf(w.Err, "stopping %s: they have up to %s\n", strings.Join(names, ", "), longest)
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, 0, fmt.Errorf("stop containers of pod %s: %w", pod.Name, err)
	}
	return names, longest, nil
}

// waitRestarted waits until each of the containers is ready as another one than before.
func (g *gateway) waitRestarted(ctx context.Context, w IO, before *corev1.Pod, names []string, limit time.Duration) error {
	old := statuses(before)
	return waitFor(ctx, w, limit, often, "pod "+before.Name+" to be ready", func(ctx context.Context) answer {
		now, err := g.client.CoreV1().Pods(before.Namespace).Get(ctx, before.Name, metav1.GetOptions{})
		if err != nil {
			return answer{missing: g.explain(err).Error()}
		}
		if now.UID != before.UID {
			return answer{missing: "the cluster has replaced the pod meanwhile"}
		}
		present := statuses(now)
		for _, name := range names {
			s := present[name]
			switch missing := "container " + name; {
			case s.State.Waiting != nil:
				return answer{missing: missing + " waits: " + told(s.State.Waiting.Reason, s.State.Waiting.Message)}
			case s.State.Running == nil || s.ContainerID == old[name].ContainerID:
				return answer{missing: missing + " is not started yet"}
			case !s.Ready:
				return answer{missing: missing + " runs and is not ready yet"}
			}
		}
		return answer{ok: true}
	})
}

// statuses are those of the containers, by name.
func statuses(pod *corev1.Pod) map[string]corev1.ContainerStatus {
	out := map[string]corev1.ContainerStatus{}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		out[s.Name] = s
	}
	return out
}
