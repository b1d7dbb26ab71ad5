package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/tests/cluster"
)

// converged returns nil when nothing is under way any more and both sides are equal.
func (l *workload) converged(ctx context.Context) error {
	for _, c := range l.w.clouds {
		if err := c.ready(ctx); err != nil {
			return err
		}
	}
	s, err := l.w.status(ctx)
	switch {
	case err != nil:
		return err
	case !s.Link.Synced:
		return fmt.Errorf("the link is not in step: %+v", s.Link)
	case s.Kubelet.State != "running":
		return fmt.Errorf("the kubelet is %s: %s", s.Kubelet.State, s.Kubelet.Reason)
	case s.Unread != "":
		return fmt.Errorf("the database cannot be read: %s", s.Unread)
	case len(s.Outbox) > 0:
		return fmt.Errorf("these wait for the cloud: %+v", s.Outbox)
	case len(s.Held) > 0:
		return fmt.Errorf("pods are held that the cluster does not know: %v", s.Held)
	}
	if err := nodeReady(ctx, l.w.Admin); err != nil {
		return err
	}
	if err := l.settled(ctx); err != nil {
		return err
	}
	if err := errors.Join(l.meters.settled(ctx), l.meters.local(ctx), l.valve.settled(ctx)); err != nil {
		return err
	}
	if err := errors.Join(l.stream.settled(), l.log.settled()); err != nil {
		return err
	}
	if err := accounted(ctx, l.w); err != nil {
		return err
	}
	return l.same(ctx)
}

func nodeReady(ctx context.Context, client kubernetes.Interface) error {
	n, err := client.CoreV1().Nodes().Get(ctx, edgeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue || c.Type == corev1.NodeDiskPressure && c.Status != corev1.ConditionFalse {
			return fmt.Errorf("the Node's %s is %s: %s", c.Type, c.Status, c.Message)
		}
	}
	for _, t := range n.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			return fmt.Errorf("the Node has taint %s", t.Key)
		}
	}
	return nil
}

// same returns nil when cluster, edge and container runtime agree on what runs, and on what it was given.
func (l *workload) same(ctx context.Context) error {
	all := metav1.ListOptions{FieldSelector: "spec.nodeName=" + edgeName}
	cloud, err := l.w.Admin.CoreV1().Pods("").List(ctx, all)
	if err != nil {
		return err
	}
	api, err := l.w.localAPI()
	if err != nil {
		return err
	}
	local, err := api.CoreV1().Pods("").List(ctx, all)
	if err != nil {
		return fmt.Errorf("the edge's pods: %w", err)
	}
	running, err := l.w.containers(ctx)
	if err != nil {
		return err
	}
	edge := map[types.UID]*corev1.Pod{}
	for i := range local.Items {
		edge[local.Items[i].UID] = &local.Items[i]
	}
	for i := range cloud.Items {
		p := &cloud.Items[i]
		if err := samePod(p, edge[p.UID], running); err != nil {
			return fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
		}
		delete(edge, p.UID)
	}
	for _, p := range edge {
		return fmt.Errorf("the edge has pod %s/%s, which the cluster has not", p.Namespace, p.Name)
	}
	for _, id := range slices.Sorted(maps.Keys(running)) {
		c := running[id]
		return fmt.Errorf("container %s of pod %s/%s runs, which the cluster does not show", c.Name, c.Namespace, c.Pod)
	}
	return l.sameContent(ctx, api)
}

// samePod compares one pod, which has to be Ready if it runs, and takes its containers out of running.
func samePod(p, edge *corev1.Pod, running map[string]cluster.Container) error {
	switch {
	case p.DeletionTimestamp != nil:
		return errors.New("it is Terminating")
	case edge == nil:
		return errors.New("the edge has none of its uid")
	case edge.DeletionTimestamp != nil:
		return errors.New("it is Terminating on the edge alone")
	case edge.Status.Phase != p.Status.Phase:
		return fmt.Errorf("it is %s in the cluster and %s on the edge", p.Status.Phase, edge.Status.Phase)
	case !reflect.DeepEqual(edge.Status.ContainerStatuses, p.Status.ContainerStatuses):
		return fmt.Errorf("its containers are %+v in the cluster and %+v on the edge", p.Status.ContainerStatuses, edge.Status.ContainerStatuses)
	}
	if p.Status.Phase == corev1.PodRunning {
		if err := errors.Join(runs(p), runs(edge)); err != nil {
			return err
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		id := strings.TrimPrefix(c.ContainerID, "containerd://")
		_, runs := running[id]
		if shown := c.State.Running != nil; shown != runs {
			return fmt.Errorf("container %s is shown as running: %t; it runs: %t", c.Name, shown, runs)
		}
		delete(running, id)
	}
	return nil
}

// sameContent compares what pods are given.
func (l *workload) sameContent(ctx context.Context, edge kubernetes.Interface) error {
	get := metav1.GetOptions{}
	want, err := l.w.Admin.CoreV1().ConfigMaps(namespace).Get(ctx, "settings", get)
	if err != nil {
		return err
	}
	has, err := edge.CoreV1().ConfigMaps(namespace).Get(ctx, "settings", get)
	if err != nil {
		return fmt.Errorf("the edge's ConfigMap: %w", err)
	}
	secret, err := l.w.Admin.CoreV1().Secrets(namespace).Get(ctx, "secret", get)
	if err != nil {
		return err
	}
	kept, err := edge.CoreV1().Secrets(namespace).Get(ctx, "secret", get)
	if err != nil {
		return fmt.Errorf("the edge's Secret: %w", err)
	}
	if !reflect.DeepEqual(want.Data, has.Data) || !reflect.DeepEqual(secret.Data, kept.Data) {
		return fmt.Errorf("the edge has ConfigMap %v and a Secret of version %s, the cluster %v and %s", has.Data, kept.ResourceVersion, want.Data, secret.ResourceVersion)
	}
	return nil
}

// containers are those that run on the edge, by id.
func (w *world) containers(ctx context.Context) (map[string]cluster.Container, error) {
	cri, err := w.edge.CRI(ctx)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	list, err := cri.Containers(ctx)
	if err != nil {
		return nil, err
	}
	running := map[string]cluster.Container{}
	for _, c := range list {
		if c.Running {
			running[c.ID] = c
		}
	}
	return running, nil
}
