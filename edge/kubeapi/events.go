package kubeapi

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// Events go up and are kept here only while they are recent: the recorder patches the counts of the last ones, and
// creates anew what is no longer known.
const (
	eventCapacity = 256
	eventLife     = time.Hour // as long as the API server keeps an event, by default
)

type events struct{ *updater }

var _ rest.Creater = &events{}

func (e *events) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	event := o.(*corev1.Event)
	if err := e.prepareCreate(event); err != nil {
		return nil, err
	}
	if err := e.sayable(event); err != nil {
		return nil, err
	}
	if len(opts.DryRun) > 0 {
		return event, nil
	}
	rec, err := e.local(event)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	if _, ok, _ := e.src.Get(ctx, rec.Key); ok {
		return nil, alreadyExists(e.resource, event.Name)
	}
	out, err := e.outgoing(rec.Key, event, object.OpCreate)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	return e.storeCreated(ctx, event, object.Change{Record: rec, Outgoing: out}, e.apply)
}

// sayable refuses an Event that the cloud would refuse to this node, when whoever made it is long gone: of another source, or not in the
// namespace of its object.
func (e *events) sayable(event *corev1.Event) error {
	node := e.s.cfg.NodeName
	if event.Source.Host != node || event.ReportingInstance != "" && event.ReportingInstance != node {
		return forbidden(e.groupResource(), event.Name, "from here Events go out of source.host %q, with it or nothing as reportingInstance: found %q and %q", node, event.Source.Host, event.ReportingInstance)
	}
	want := event.InvolvedObject.Namespace
	if want == "" {
		want = metav1.NamespaceDefault
	}
	if event.Namespace != want {
		return forbidden(e.groupResource(), event.Name, "an Event about an object in namespace %q belongs into namespace %q", event.InvolvedObject.Namespace, want)
	}
	return nil
}

// outgoing is the message that carries an event up.
func (e *events) outgoing(key object.Key, event *corev1.Event, op object.Op) ([]object.Outgoing, error) {
	body, err := e.message(event)
	if err != nil {
		return nil, err
	}
	now := e.s.deps.Clock.Now()
	return []object.Outgoing{{
		Key: key, Op: op, Body: body, Class: object.ClassEvent, Priority: object.PriorityEvent,
		Created: now, Expires: now.Add(eventLife), Policy: object.DropOldest,
	}}, nil
}

// changeEvent is a new count: the whole event goes up once more, in place of the one that is there.
func (e *events) changeEvent(_ context.Context, rec *object.Record, old, next object.Object) (*object.Change, error) {
	if apiequality.Semantic.DeepEqual(old, next) {
		return nil, nil
	}
	if err := e.sayable(next.(*corev1.Event)); err != nil {
		return nil, err
	}
	changed, err := e.local(next)
	if err != nil {
		return nil, err
	}
	out, err := e.outgoing(rec.Key, next.(*corev1.Event), object.OpPut)
	if err != nil {
		return nil, err
	}
	return &object.Change{Expect: rec.LocalRV, Record: changed, Outgoing: out}, nil
}

// keepEvent queues the message in the store, then shows the event.
func (s *Server) keepEvent(ctx context.Context, c object.Change) (*object.Record, error) {
	if _, err := s.deps.Store.Apply(ctx, object.Change{Outgoing: c.Outgoing}); err != nil {
		return nil, err
	}
	return s.events.Apply(ctx, c)
}

// Happened shows an Event that another part of the edge has queued for the cloud: o is that message.
func (s *Server) Happened(ctx context.Context, o object.Outgoing) error {
	kind, _ := object.Lookup(object.Events)
	decoded, err := object.Decode(kind, o.Body)
	if err != nil {
		return fmt.Errorf("show an event: %w", err)
	}
	r := s.resourceOf(kind)
	if err := r.prepareCreate(decoded); err != nil {
		return fmt.Errorf("show an event: %w", err)
	}
	rec, err := r.local(decoded)
	if err != nil {
		return fmt.Errorf("show an event: %w", err)
	}
	if _, err := s.events.Apply(ctx, object.Change{Record: rec}); err != nil {
		return fmt.Errorf("show an event: %w", err)
	}
	return nil
}
