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
	"github.com/tether-edge/tether/common/transport"
)

// edgeLabels are the labels of every edge Node. Kubelets may not set those of node-role.kubernetes.io, and external
// load balancers cannot reach an edge.
func edgeLabels() map[string]string {
	return map[string]string{
		"node-role.kubernetes.io/edge":   "",
		"node-role.kubernetes.io/agent":  "",
		corev1.LabelNodeExcludeBalancers: "",
	}
}

// syncNode brings one Node in order: there, labelled, and copied into its Lease.
func (k *Keeper) syncNode(ctx context.Context, node string) (time.Duration, error) {
	key := object.Key{Kind: object.Nodes, Name: node}
	o, ok := k.deps.Cache.Object(key)
	if !ok {
		return 0, k.recreate(ctx, node)
	}
	n, ok := o.(*corev1.Node)
	if !ok {
		return 0, nil
	}
	k.release(key)
	if !IsEdge(n) {
		return 0, nil
	}
	k.mu.Lock()
	r := k.record(node)
	r.changes++
	var protocol transport.Protocol // said with the claim, at its pace
	if r.claimed {
		protocol = r.protocol
	}
	k.mu.Unlock()
	k.leases.Add(node)
	return 0, k.label(ctx, n, protocol)
}

// label adds the labels that are missing, changing none that is there, and says what carries the node's session.
func (k *Keeper) label(ctx context.Context, n *corev1.Node, protocol transport.Protocol) error {
	missing := map[string]string{}
	for key, value := range edgeLabels() {
		if _, ok := n.Labels[key]; !ok {
			missing[key] = value
		}
	}
	meta := map[string]any{"uid": n.UID}
	if len(missing) > 0 {
		meta["labels"] = missing
	}
	if protocol != "" && n.Annotations[AnnotationProtocol] != string(protocol) {
		meta["annotations"] = map[string]any{AnnotationProtocol: protocol}
	}
	if len(meta) == 1 || n.DeletionTimestamp != nil {
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode labels of node %s: %w", n.Name, err)
	}
	_, err = k.deps.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone or another; the cache will say so
	}
	if err != nil {
		return fmt.Errorf("label node %s: %w", n.Name, err)
	}
	k.m.labels.Inc()
	return nil
}

// recreate makes a Node again that the cache no longer has, if its Lease tells to. The Lease is read anew: whoever
// removes a node for good says so there.
func (k *Keeper) recreate(ctx context.Context, node string) error {
	k.mu.Lock()
	r := k.records[node]
	k.mu.Unlock()
	if r == nil {
		return nil // never an edge
	}
	l, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		k.forget(node)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the lease of node %s, whose Node is gone: %w", node, err)
	}
	if _, removed := l.Annotations[AnnotationRemoved]; removed {
		k.deps.Log.Info("a Node is gone and stays so: its lease says that the node was removed", "node", node)
		k.forget(node)
		return nil
	}
	raw := l.Annotations[AnnotationNode]
	if raw == "" {
		return nil // its kubelet has not registered yet
	}
	n, err := restore(node, []byte(raw))
	if err != nil {
		k.m.failures.WithLabelValues("node copy").Inc()
		k.deps.Log.Error("a Node is gone and cannot be created again", "node", node, "err", err)
		return nil
	}
	made, err := k.deps.Client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create node %s again: %w", node, err)
	}
	k.m.recreated.Inc()
	k.deps.Log.Warn("the Node of an edge was deleted: it was created again from the copy in its lease", "node", node, "uid", made.UID)
	k.tell(made)
	return nil
}

// forget drops what is known of a node that is gone for good, unless it is connected.
func (k *Keeper) forget(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.records[node]
	switch {
	case r == nil:
	case r.session == "":
		delete(k.records, node)
	default:
		r.known = false
	}
}
