// Package ownnode is the Node that an edge is, for the parts of edgecore that show something at it: read from the store, written
// through the local API as the kubelet writes, so that it is queued, merged and asserted again like any status.
package ownnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/store"
)

// ErrGone: the store has no Node of this name.
var ErrGone = errors.New("the Node is not in the store")

// A Node is safe for concurrent use.
type Node struct {
	Name  string
	Store *store.Store
	// API is the local one, as the node.
	API corev1client.CoreV1Interface
	Now func() time.Time
}

// Get returns the Node as the edge has it, and as the cloud sent it last. The error is ErrGone if there is none.
func (n *Node) Get(ctx context.Context) (ours, theirs *corev1.Node, err error) {
	rec, ok, err := n.Store.Get(ctx, object.Key{Kind: object.Nodes, Name: n.Name})
	switch {
	case err != nil:
		return nil, nil, err
	case !ok || rec.Sealed:
		return nil, nil, ErrGone
	}
	if ours, err = decode(rec.Body); err != nil {
		return nil, nil, err
	}
	theirs, err = decode(rec.Cloud())
	return ours, theirs, err
}

func decode(body []byte) (*corev1.Node, error) {
	kind, _ := object.Lookup(object.Nodes)
	o, err := object.Decode(kind, body)
	if err != nil {
		return nil, fmt.Errorf("read the Node: %w", err)
	}
	return o.(*corev1.Node), nil
}

// Condition returns the condition of a type; empty if the Node has none.
func Condition(o *corev1.Node, of corev1.NodeConditionType) corev1.NodeCondition {
	i := slices.IndexFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == of })
	if i < 0 {
		return corev1.NodeCondition{}
	}
	return o.Status.Conditions[i]
}

// Show writes conditions, with the times that follow from what the Node shows now, and annotations, of which nil takes one away. The
// error is ErrGone if there is no Node.
func (n *Node) Show(ctx context.Context, annotations map[string]*string, conditions ...corev1.NodeCondition) error {
	o, _, err := n.Get(ctx)
	if err != nil {
		return err
	}
	now := metav1.NewTime(n.Now())
	for i := range conditions {
		c := &conditions[i]
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		if before := Condition(o, c.Type); before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
	}
	change := map[string]any{}
	if len(annotations) > 0 {
		change["metadata"] = map[string]any{"annotations": annotations}
	}
	if len(conditions) > 0 {
		change["status"] = map[string]any{"conditions": conditions}
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = n.API.Nodes().PatchStatus(ctx, n.Name, patch)
	return err
}

// Event makes an Event at the Node.
func (n *Node) Event(ctx context.Context, warning bool, reason, message string) error {
	kind, now := corev1.EventTypeNormal, n.Now()
	if warning {
		kind = corev1.EventTypeWarning
	}
	_, err := n.API.Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", n.Name, now.UnixNano())},
		// The uid is the name, as kubelets have it.
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: types.UID(n.Name)},
		Type:           kind, Reason: reason, Message: message, Count: 1,
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now),
		// The cloud takes events of this node only.
		Source: corev1.EventSource{Component: "edgecore", Host: n.Name},
	}, metav1.CreateOptions{})
	return err
}
