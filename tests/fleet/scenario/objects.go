package scenario

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/fleet"
)

// namespace holds what the scenarios make.
const namespace = metav1.NamespaceDefault

// everywhere begins the names of the pods that some scenarios have running, one on each node, and names the ConfigMap and the Secret that
// they use.
const everywhere = "everywhere"

// makeNodes makes the Nodes as kubelets of edges register them. Their statuses come up as the edges' own writes.
func (w *world) makeNodes(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range w.cfg.Nodes {
		group.Go(func() error {
			name := fleet.Name(prefix, i)
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelOSStable: "linux"}},
				Spec: corev1.NodeSpec{ProviderID: object.ProviderIDPrefix + name}}
			if _, err := w.Admin.CoreV1().Nodes().Create(gctx, node, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("make Node %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// random is a text that does not compress, of that many bytes or a little more.
func random(size int) string {
	b := make([]byte, size*3/4)
	rand.Read(b) // never fails: see crypto/rand
	return base64.StdEncoding.EncodeToString(b)
}

// runEverywhere makes sure that a pod runs on each node. No controller owns the pods: that of DaemonSets goes through all nodes for each Node that
// changes, and at ten thousand of them takes most of a core for as long as there is a DaemonSet, which is not what a hub costs. The scenario rollout is
// about one.
func (w *world) runEverywhere(ctx context.Context) error {
	meta := metav1.ObjectMeta{Name: everywhere}
	core := w.Admin.CoreV1()
	_, err := core.ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"data": random(2 << 10)}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier scenario has waited for it
	}
	if err != nil {
		return fmt.Errorf("make the ConfigMap of all pods: %w", err)
	}
	if _, err := core.Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"data": random(2 << 10)}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the Secret of all pods: %w", err)
	}
	spec := podSpec()
	spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: everywhere}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: everywhere}}},
	}
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} // as those of a DaemonSet
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range w.cfg.Nodes {
		group.Go(func() error {
			own := spec
			own.NodeName = fleet.Name(prefix, i)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: everywhere + "-" + own.NodeName, Labels: map[string]string{"app": everywhere}}, Spec: own}
			if _, err := core.Pods(namespace).Create(gctx, pod, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("make a pod for node %s: %w", own.NodeName, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// What an edge has committed runs, and the status that says so is in its queue.
	if _, err := w.committed(ctx, fleet.Question{Kind: object.Pods, Namespace: namespace, Prefix: everywhere + "-"}); err != nil {
		return err
	}
	return w.settled(ctx, w.cfg.Nodes)
}

// daemonSet runs one pod on each node, with a token as most pods have.
func daemonSet(name string) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	set.Spec.Template.Labels = labels
	set.Spec.Template.Spec = podSpec()
	return set
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/app:1"}}}
}

// allReady waits until the cluster shows a Ready pod of the DaemonSet on every node.
func (w *world) allReady(ctx context.Context, name string) error {
	return w.until(ctx, "every pod of DaemonSet "+name+" to be Ready", func(ctx context.Context) error {
		set, err := w.Admin.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && int(set.Status.NumberReady) < w.cfg.Nodes {
			err = fmt.Errorf("%d of %d are", set.Status.NumberReady, w.cfg.Nodes)
		}
		return err
	})
}
