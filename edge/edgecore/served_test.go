package edgecore

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/store"
)

// eventSink takes new Events.
type eventSink struct {
	record.EventSink
	created chan *corev1.Event
}

func (s eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	s.created <- e
	return e, nil
}

func TestAnImageThatServedIsSaidAtItsPodAndNothingRunsOn(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	sink := eventSink{created: make(chan *corev1.Event, 1)}
	e := newServedEvents("edge-1")
	e.sink = sink
	e.add(image.Served{Pod: image.Pod{Namespace: "shop", Name: "till", UID: "u-1"}, Image: "h/till:v1", Ref: "sha256:1", Reason: "no answer for 15s"})
	goleak.VerifyNone(t, leaks) // an edgecore that is built and does not start
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Start(ctx) }()
	got := <-sink.created
	o := got.InvolvedObject
	said := fmt.Sprintf("%s %s/%s %s by %s of %s: %s %s: %s", o.Kind, o.Namespace, o.Name, o.UID, got.Source.Component, got.Source.Host, got.Type, got.Reason, got.Message)
	if want := `Pod shop/till u-1 by edgecore of edge-1: Warning RegistryNotHeard: The registry of image "h/till:v1" was not heard, so the image that is here serves (sha256:1): no answer for 15s`; said != want {
		t.Errorf("the Event is\n%s, expected\n%s", said, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, leaks)
	for range 2 * maxServed { // nobody takes them
		e.add(image.Served{})
	}
}

func TestAStoreThatWritesTooMuchIsSaidAtItsNode(t *testing.T) {
	sink := eventSink{created: make(chan *corev1.Event, 1)}
	e := newServedEvents("edge-1")
	e.sink = sink
	e.overspent(store.Overspent{Bytes: 70, Budget: 64, Most: "twin", MostBytes: 60})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Start(ctx) }()
	got := <-sink.created
	o := got.InvolvedObject
	said := fmt.Sprintf("%s %s %s: %s %s: %s", o.Kind, o.Name, o.UID, got.Type, got.Reason, got.Message)
	if want := `Node edge-1 edge-1: Warning WriteBudgetExceeded: The store wrote 70 bytes within an hour, more than store.writeBudget (64); most of it, 60, for twin. Flash wears by what is written.`; said != want {
		t.Errorf("the Event is\n%s, expected\n%s", said, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
