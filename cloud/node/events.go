package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// A notice is an Event about a Node that is still to be recorded.
type notice struct {
	node, uid, reason, message string
	warning                    bool
	// at is when it happened, in ns since 1970.
	at int64
}

// Restored records an Event that the API server is older than what an edge has seen: etcd was restored from a backup.
// node is that edge, key the object of which it holds version held, server what the API server says its own is.
func (k *Keeper) Restored(node string, key object.Key, held, server uint64) {
	k.note(notice{node: node, warning: true, reason: "ClusterRestored", message: fmt.Sprintf("The edge holds %s of resourceVersion %d, the API server is at %d: "+
		"the cluster was restored from a backup. Edges take over what it holds now.", key, held, server)})
}

// tell records an Event about a Node that was created again.
func (k *Keeper) tell(n *corev1.Node) {
	k.note(notice{node: n.Name, uid: string(n.UID), warning: true, reason: "EdgeNodeRecreated", message: "The Node was deleted while its edge was not removed: " +
		"CloudCore created it again. To remove a node for good: keadm reset edge on it, or keadm node remove beside the cluster."})
}

// Joined records an Event that a machine got a node's identity, Refused one that it did not.
func (k *Keeper) Joined(node, message string) {
	k.note(notice{node: node, reason: "EdgeJoined", message: message})
}

// Refused records an Event that somebody asked in vain for a node's identity.
func (k *Keeper) Refused(node, message string) {
	k.note(notice{node: node, warning: true, reason: "EdgeJoinRefused", message: message})
}

func (k *Keeper) note(n notice) {
	n.at = k.deps.Clock.Now().UnixNano()
	k.notices.Add(n)
}

// syncNotice creates the Event. Its name follows from the notice, so that a retried create makes no second one.
func (k *Keeper) syncNotice(ctx context.Context, n notice) (time.Duration, error) {
	at, kind := metav1.NewTime(time.Unix(0, n.at)), corev1.EventTypeNormal
	if n.warning {
		kind = corev1.EventTypeWarning
	}
	_, err := k.deps.Client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", n.node, n.at), Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.node, UID: types.UID(n.uid)},
		Reason:         n.reason,
		Message:        n.message,
		Type:           kind,
		Source:         corev1.EventSource{Component: fieldManager},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: "tether.io/cloudcore",
	}, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("record Event %s about node %s: %w", n.reason, n.node, err)
	}
	return 0, nil
}
