package edgecore

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/store"
)

// ReasonServedLocally is the reason of the Event at a pod that an image serves which is here, since its registry was not heard.
const ReasonServedLocally = "RegistryNotHeard"

// ReasonWriteBudgetExceeded is the reason of the Event at the Node that the store writes more than store.writeBudget.
const ReasonWriteBudgetExceeded = "WriteBudgetExceeded"

// maxServed is how many Events may wait to be made; a node has fewer pods than that.
const maxServed = 1000

// servedEvents makes Events for the parts of edgecore, gathered and limited as the kubelet's are: at pods whose images served in a
// registry's place or that the steward looks after, and at the node whose store writes too much.
type servedEvents struct {
	sink record.EventSink
	node string
	// waiting are those that are not made yet.
	waiting chan waitingEvent
}

type waitingEvent struct {
	about                      runtime.Object
	eventType, reason, message string
}

// newServedEvents returns one whose sink is to be set before it starts.
func newServedEvents(node string) *servedEvents {
	return &servedEvents{node: node, waiting: make(chan waitingEvent, maxServed)}
}

// tell never blocks. Beyond maxServed there is no Event; the logs and metrics of the parts tell the same.
func (e *servedEvents) tell(about runtime.Object, eventType, reason, message string) {
	select {
	case e.waiting <- waitingEvent{about, eventType, reason, message}:
	default:
	}
}

// Event is tell at a pod.
func (e *servedEvents) Event(pod *corev1.Pod, eventType, reason, message string) {
	e.tell(pod, eventType, reason, message)
}

func (e *servedEvents) add(s image.Served) {
	e.tell(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: s.Pod.Namespace, Name: s.Pod.Name, UID: types.UID(s.Pod.UID)}, corev1.EventTypeWarning, ReasonServedLocally,
		fmt.Sprintf("The registry of image %q was not heard, so the image that is here serves (%s): %s", s.Image, s.Ref, s.Reason))
}

func (e *servedEvents) overspent(o store.Overspent) {
	// As the kubelet names its node.
	e.tell(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.node, UID: types.UID(e.node)}, corev1.EventTypeWarning, ReasonWriteBudgetExceeded,
		fmt.Sprintf("The store wrote %d bytes within an hour, more than store.writeBudget (%d); most of it, %d, for %s. Flash wears by what is written.", o.Bytes, o.Budget, o.MostBytes, o.Most))
}

// Start makes Events until ctx ends.
func (e *servedEvents) Start(ctx context.Context) error {
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(e.sink)
	// The cloud takes events of this node only.
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "edgecore", Host: e.node})
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-e.waiting:
			recorder.Event(w.about, w.eventType, w.reason, w.message)
		}
	}
}
