package edgecore

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

	"github.com/tether-edge/tether/edge/image"
)

// ReasonServedLocally is the reason of the Event at a pod that an image serves which is here, since its registry was not heard.
const ReasonServedLocally = "RegistryNotHeard"

// maxServed is how many images may wait for their Events; a node has fewer pods than that.
const maxServed = 1000

// servedEvents makes Events at the pods whose images served in a registry's place, gathered and limited as the kubelet's are.
type servedEvents struct {
	sink record.EventSink
	node string
	// served are those whose Events are not made yet.
	served chan image.Served
}

func newServedEvents(sink record.EventSink, node string) *servedEvents {
	return &servedEvents{sink: sink, node: node, served: make(chan image.Served, maxServed)}
}

// add never blocks. Beyond maxServed there is no Event; the log and tether_image_served_locally_total tell of each.
func (e *servedEvents) add(s image.Served) {
	select {
	case e.served <- s:
	default:
	}
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
		case s := <-e.served:
			pod := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: s.Pod.Namespace, Name: s.Pod.Name, UID: types.UID(s.Pod.UID)}
			recorder.Eventf(pod, corev1.EventTypeWarning, ReasonServedLocally, "The registry of image %q was not heard, so the image that is here serves (%s): %s", s.Image, s.Ref, s.Reason)
		}
	}
}
