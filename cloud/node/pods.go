package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// syncPod makes a pod that is bound to an edge tolerate its node's absence for ever.
func (k *Keeper) syncPod(ctx context.Context, key object.Key) (time.Duration, error) {
	o, ok := k.deps.Cache.Object(key)
	if !ok {
		k.unwait(key)
		return 0, nil
	}
	p, ok := o.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || p.DeletionTimestamp != nil || object.IsMirror(p) ||
		p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return 0, nil
	}
	tolerations, changed := tolerateAbsence(p.Spec.Tolerations)
	if !changed {
		return 0, nil
	}
	edge, known := k.isEdge(p.Spec.NodeName)
	if !known {
		k.wait(p.Spec.NodeName, key)
		// The Node may have come between the two looks.
		if edge, known = k.isEdge(p.Spec.NodeName); !known {
			return 0, nil
		}
	}
	if !edge {
		return 0, nil
	}
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

// isEdge says whether a Node is an edge's; known is false where the cache does not have it.
func (k *Keeper) isEdge(node string) (edge, known bool) {
	k.mu.Lock()
	_, edge = k.records[node]
	k.mu.Unlock()
	if edge {
		return true, true
	}
	o, ok := k.deps.Cache.Object(object.Key{Kind: object.Nodes, Name: node})
	if !ok {
		return false, false
	}
	n, ok := o.(*corev1.Node)
	return ok && IsEdge(n), true
}

// wait remembers a pod until its Node is known.
func (k *Keeper) wait(node string, pod object.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[node] == nil {
		k.waiting[node] = map[object.Key]struct{}{}
	}
	k.waiting[node][pod] = struct{}{}
}

// unwait forgets a pod that is gone. Few pods wait, and few Nodes are absent.
func (k *Keeper) unwait(pod object.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for node, pods := range k.waiting {
		if delete(pods, pod); len(pods) == 0 {
			delete(k.waiting, node)
		}
	}
}

// release looks again at the pods that waited for a Node.
func (k *Keeper) release(node string) {
	k.mu.Lock()
	pods := k.waiting[node]
	delete(k.waiting, node)
	k.mu.Unlock()
	for p := range pods {
		k.pods.Add(p)
	}
}
