package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// Ready reports whether the node is connected here and the cluster holds it for Ready, and else says why not. A Node that
// was Ready before its edge was set up anew still is for a while.
func (k *Keeper) Ready(node string) (ready bool, reason string) {
	k.mu.Lock()
	r := k.records[node]
	connected := r != nil && r.session != ""
	k.mu.Unlock()
	if !connected {
		return false, "edgecore has not connected yet"
	}
	o, ok := k.deps.Cache.Object(object.Key{Kind: object.Nodes, Name: node})
	if !ok {
		return false, "its kubelet has not registered yet"
	}
	n, ok := o.(*corev1.Node)
	if !ok {
		return false, "its Node cannot be read"
	}
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return true, ""
		}
		return false, fmt.Sprintf("Ready is %s (%s): %s", c.Status, c.Reason, c.Message)
	}
	return false, "its kubelet has not reported yet"
}

// Holder returns the session that holds a node by its Lease, and the address of its CloudCore; empty if there is none or it
// was not renewed in time.
func (k *Keeper) Holder(ctx context.Context, node string) (session, replica string, err error) {
	l, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("read lease %s/%s: %w", LeaseNamespace, node, err)
	}
	if t := l.Spec.RenewTime; t == nil || k.deps.Clock.Now().Sub(t.Time) > k.cfg.Duration {
		return "", "", nil
	}
	return l.Annotations[AnnotationSession], l.Annotations[AnnotationReplica], nil
}

// Remove removes a node for good: its Lease says so first, then the Node goes, then the Lease. Where it fails it can be
// called again. Its session, if there is one, is to be ended by the caller.
func (k *Keeper) Remove(ctx context.Context, node string) error {
	k.mu.Lock()
	if r := k.records[node]; r != nil {
		r.session, r.removed = "", true // nothing renews or copies from here on
	}
	k.mu.Unlock()
	leases := k.deps.Client.CoordinationV1().Leases(LeaseNamespace)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{AnnotationRemoved: k.deps.Clock.Now().UTC().Format(time.RFC3339)}}})
	if err != nil {
		return fmt.Errorf("encode lease patch: %w", err)
	}
	if _, err := leases.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark the lease of node %s: %w", node, err)
	}
	if err := k.deps.Client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", node, err)
	}
	if err := leases.Delete(ctx, node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the lease of node %s: %w", node, err)
	}
	k.mu.Lock()
	delete(k.records, node)
	k.mu.Unlock()
	k.deps.Log.Info("node removed for good", "node", node)
	return nil
}
