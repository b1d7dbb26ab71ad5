package node

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

const (
	// podRate is how many pods are changed in a second, and how many at once: when CloudCore starts on a large cluster, or
	// many pods are bound together. Kubernetes evicts after five minutes, unless a pod or a cluster says otherwise.
	podRate = 100
	// leavePods is how long a pod is left to the CloudCore that has its node's session, at least; up to twice as long, at
	// random, so that of two without the session mostly one writes.
	leavePods = 2 * time.Second
)

// syncPodOrNamespace works on what the queue of pods holds.
func (k *Keeper) syncPodOrNamespace(ctx context.Context, key object.Key) (time.Duration, error) {
	if key.Kind == object.Namespaces {
		return k.syncNamespace(ctx, key)
	}
	return k.syncPod(ctx, key)
}

// syncPod makes a pod that is bound to an edge tolerate its node's absence for ever, unless it is to be evicted. It makes no
// request where there is nothing to change.
func (k *Keeper) syncPod(ctx context.Context, key object.Key) (time.Duration, error) {
	p, tolerations := k.intolerant(key)
	if p == nil {
		k.settled(key)
		return 0, nil
	}
	if wait := k.leave(key, p.Spec.NodeName); wait > 0 {
		return wait, nil
	}
	if err := k.patches.Wait(ctx); err != nil {
		return 0, fmt.Errorf("keep pod %s from eviction: %w", key, err)
	}
	again, err := k.tolerate(ctx, key, p, tolerations)
	if again == 0 && err == nil {
		k.settled(key)
	}
	return again, err
}

// intolerant returns a pod of the cache that is to tolerate more than it does, and what; nil if there is nothing to do, or
// not before what the cache lacks has come.
func (k *Keeper) intolerant(key object.Key) (*corev1.Pod, []corev1.Toleration) {
	o, ok := k.deps.Cache.Object(key)
	if !ok {
		k.unwait(key)
		return nil, nil
	}
	p, ok := o.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || p.DeletionTimestamp != nil || object.IsMirror(p) ||
		p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	tolerations, changed := tolerateAbsence(p.Spec.Tolerations)
	if !changed {
		return nil, nil
	}
	onEdge := k.await(object.Key{Kind: object.Nodes, Name: p.Spec.NodeName}, key, func() (bool, bool) { return k.isEdge(p.Spec.NodeName) })
	if !onEdge {
		return nil, nil
	}
	stays := k.await(object.Key{Kind: object.Namespaces, Name: p.Namespace}, key, func() (bool, bool) {
		evictable, known := k.evictable(p)
		return !evictable, known
	})
	if !stays {
		return nil, nil
	}
	return p, tolerations
}

// leave says for how long a pod is left to another CloudCore: none if its node's session is here.
func (k *Keeper) leave(pod object.Key, node string) time.Duration {
	now := k.deps.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.records[node]; r != nil && r.session != "" {
		return 0
	}
	until, ok := k.left[pod]
	if !ok {
		until = now.Add(leavePods + rand.N(leavePods))
		k.left[pod] = until
	}
	return until.Sub(now)
}

// settled forgets that a pod was left to another CloudCore.
func (k *Keeper) settled(pod object.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.left, pod)
}

// tolerate writes a pod's tolerations, if it is still the one that was looked at.
func (k *Keeper) tolerate(ctx context.Context, key object.Key, p *corev1.Pod, tolerations []corev1.Toleration) (again time.Duration, err error) {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": p.UID, "resourceVersion": p.ResourceVersion},
		"spec":     map[string]any{"tolerations": tolerations},
	})
	if err != nil {
		return 0, fmt.Errorf("encode tolerations of pod %s: %w", key, err)
	}
	_, err = k.deps.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
	switch {
	case err == nil:
		k.m.tolerations.Inc()
		return 0, nil
	case apierrors.IsNotFound(err):
		return 0, nil
	case apierrors.IsConflict(err):
		k.m.podConflicts.Inc()
		return 100 * time.Millisecond, nil // the cache is behind
	case apierrors.IsInvalid(err):
		k.m.failures.WithLabelValues("pod").Inc()
		k.deps.Log.Warn("the API server refuses the tolerations that keep a pod on its edge", "pod", key.String(), "err", err)
		return 0, nil
	}
	return 0, fmt.Errorf("keep pod %s from eviction: %w", key, err)
}

// tolerateAbsence returns tolerations under which a pod is never evicted because its node is not ready or not
// reachable, and whether they differ from what is there. The eviction takes the shortest time of all tolerations
// that match a taint, so each that matches loses its time; a toleration is added only where none matches. Kubernetes
// lets no other part of a toleration change.
func tolerateAbsence(have []corev1.Toleration) (want []corev1.Toleration, changed bool) {
	want = slices.Clone(have)
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerated := false
		for i := range want {
			if !matches(want[i], taint) {
				continue
			}
			tolerated = true
			if want[i].TolerationSeconds != nil {
				want[i].TolerationSeconds = nil
				changed = true
			}
		}
		if !tolerated {
			want = append(want, corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
			changed = true
		}
	}
	return want, changed
}

// matches says whether t tolerates the taint key:NoExecute, which has no value.
func matches(t corev1.Toleration, key string) bool {
	if t.Effect != "" && t.Effect != corev1.TaintEffectNoExecute {
		return false
	}
	switch t.Operator {
	case corev1.TolerationOpExists:
		return t.Key == "" || t.Key == key
	case corev1.TolerationOpEqual, "":
		return t.Key == key && t.Value == ""
	}
	return false
}

// isEdge says whether a node is an edge. Its Node says so where the cache has it; one that vanished was an edge if its Lease
// is known. known is false where neither is there.
func (k *Keeper) isEdge(node string) (edge, known bool) {
	if o, ok := k.deps.Cache.Object(object.Key{Kind: object.Nodes, Name: node}); ok {
		n, ok := o.(*corev1.Node)
		return ok && IsEdge(n), true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_, edge = k.records[node]
	return edge, edge
}

// await asks a question about a pod and returns the answer; false where it is not known before what is awaited has come, and
// then the pod is looked at again.
func (k *Keeper) await(awaited, pod object.Key, ask func() (yes, known bool)) bool {
	yes, known := ask()
	if known {
		return yes
	}
	k.mu.Lock()
	if k.waiting[awaited] == nil {
		k.waiting[awaited] = map[object.Key]struct{}{}
	}
	k.waiting[awaited][pod] = struct{}{}
	k.mu.Unlock()
	// It may have come between the two looks.
	yes, known = ask()
	return yes && known
}

// unwait forgets a pod that is gone. Few pods wait, and few Nodes and Namespaces are absent.
func (k *Keeper) unwait(pod object.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for awaited, pods := range k.waiting {
		if delete(pods, pod); len(pods) == 0 {
			delete(k.waiting, awaited)
		}
	}
}

// release looks again at the pods that waited for an object.
func (k *Keeper) release(awaited object.Key) {
	k.mu.Lock()
	pods := k.waiting[awaited]
	delete(k.waiting, awaited)
	k.mu.Unlock()
	for p := range pods {
		k.pods.Add(p)
	}
}
