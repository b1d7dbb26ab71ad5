package kubeapi

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// pods is the Pod resource: the kubelet writes the status, creates mirror pods and takes away what has ended.
type pods struct{ *resource }

var (
	_ rest.Creater         = &pods{}
	_ rest.GracefulDeleter = &pods{}
)

// Create makes a mirror pod: only the cloud can give it a uid. The static pod behind it runs anyway.
func (p *pods) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	pod := o.(*corev1.Pod)
	if !object.IsMirror(pod) {
		return nil, forbidden(p.groupResource(), pod.Name,
			"pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, p.s.cfg.NodeName)
	}
	if pod.Spec.NodeName != p.s.cfg.NodeName {
		return nil, forbidden(p.groupResource(), pod.Name,
			"node %q can only create pods with spec.nodeName set to itself", p.s.cfg.NodeName)
	}
	if !p.synced() {
		return nil, p.errNotSynced()
	}
	rec, ok, err := p.src.Get(ctx, p.key(ctx, pod.Name))
	switch {
	case err != nil:
		return nil, internal(ctx, "read the store", err)
	case ok:
		return nil, apierrors.NewAlreadyExists(p.groupResource(), pod.Name)
	case rec != nil && rec.Tombstone:
		return nil, unavailable("the deletion of pod %s/%s has not reached the cloud yet", pod.Namespace, pod.Name)
	}
	return p.s.callCreate(ctx, p.kind, "", pod, opts)
}

// changePodStatus keeps the status; everything else of the pod is the cloud's.
func (s *Server) changePodStatus(r *resource) changeFunc {
	return func(_ context.Context, rec *object.Record, o, n object.Object) (*object.Change, error) {
		old, next := o.(*corev1.Pod), n.(*corev1.Pod)
		if !apiequality.Semantic.DeepEqual(old.Labels, next.Labels) {
			return nil, forbidden(r.groupResource(), old.Name, "node %q cannot update labels through pod status", s.cfg.NodeName)
		}
		status := next.Status
		*next = *old.DeepCopy()
		next.Status = status
		if next.Status.QOSClass == "" {
			next.Status.QOSClass = old.Status.QOSClass
		}
		return s.overlayChange(r.kind, rec, old, next, object.PriorityPod)
	}
}

// Delete ends a pod. With grace 0 it is gone here at once, and the deletion is queued for the cloud; a pod with
// finalizers stays, marked, until the cloud lets it go. A longer grace is a wish that only the cloud can record, but for pods of
// the site's own (held ones and stand-ins): the kubelet ends them in that time and comes back with grace 0.
func (p *pods) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	for range updateTries {
		rec, err := p.lookup(ctx, name)
		if err != nil {
			return nil, false, err
		}
		o, err := p.decode(rec)
		if err != nil {
			return nil, false, internal(ctx, "read the store", err)
		}
		pod := o.(*corev1.Pod)
		if err := checkDelete(p.resource, pod, opts); err != nil {
			return nil, false, err
		}
		grace, kept := effectiveGrace(pod, opts), ours(rec)
		if grace > 0 && !kept {
			return nil, false, forbidden(p.groupResource(), name,
				"the cloud owns this pod: delete it there; here it can only be removed at once, with grace period 0")
		}
		if validate != nil {
			if err := validate(ctx, pod); err != nil {
				return nil, false, err
			}
		}
		if len(opts.DryRun) > 0 {
			return p.s.deps.View(p.marked(pod, grace)), grace == 0, nil
		}
		c, err := p.deletion(rec, pod, grace)
		if err != nil {
			return nil, false, internal(ctx, "delete", err)
		}
		if c == nil {
			return p.s.deps.View(pod), false, nil
		}
		stored, err := p.s.deps.Store.Apply(ctx, *c)
		switch {
		case isConflict(err):
			continue
		case err != nil:
			return nil, false, internal(ctx, "write the store", err)
		case grace > 0 || len(pod.Finalizers) > 0 && !kept:
			shown, err := p.show(stored)
			return shown, false, err
		}
		return p.s.deps.View(p.marked(pod, 0)), true, nil
	}
	return nil, false, apierrors.NewConflict(p.groupResource(), name, object.ErrConflict)
}

// ours reports whether a pod is the site's own: the cloud has no word in it, nor any memory of it.
func ours(rec *object.Record) bool { return rec.Origin == object.FromEdge || rec.Held }

// deletion returns the change that a deletion makes, or nil if it was made before. grace, in seconds, is 0 but for pods of
// the site's own.
func (p *pods) deletion(rec *object.Record, pod *corev1.Pod, grace int64) (*object.Change, error) {
	if ours(rec) && grace > 0 {
		if pod.DeletionTimestamp != nil && *pod.DeletionGracePeriodSeconds <= grace {
			return nil, nil
		}
		body, err := object.Encode(p.kind, withVersion(p.marked(pod, grace), cloudRV(rec)))
		if err != nil {
			return nil, err
		}
		next := *rec
		next.Body, next.Base = body, rec.Base
		if rec.Held {
			next.Base = rec.Cloud()
		}
		return &object.Change{Expect: rec.LocalRV, Record: &next}, nil
	}
	// Nothing would come down that ends a tombstone.
	if ours(rec) {
		return &object.Change{Expect: rec.LocalRV, Record: rec, Remove: true}, nil
	}
	next := *rec
	if len(pod.Finalizers) == 0 {
		next.Tombstone = true
		return p.s.queueDelete(rec, &next), nil
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
		return nil, nil
	}
	body, err := object.Encode(p.kind, withVersion(p.marked(pod, 0), cloudRV(rec)))
	if err != nil {
		return nil, err
	}
	next.Body, next.Base = body, rec.Cloud()
	return p.s.queueDelete(rec, &next), nil
}

// marked returns a copy of the pod that is marked as deleted with a grace period in seconds.
func (p *pods) marked(pod *corev1.Pod, grace int64) *corev1.Pod {
	marked := pod.DeepCopy()
	end := metav1.NewTime(p.s.deps.Clock.Now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	if marked.DeletionTimestamp == nil || end.Before(marked.DeletionTimestamp) {
		marked.DeletionTimestamp = &end
	}
	marked.DeletionGracePeriodSeconds = &grace
	return marked
}

func withVersion(pod *corev1.Pod, rv string) *corev1.Pod {
	pod.ResourceVersion = rv
	return pod
}

// queueDelete stores next in place of rec and tells the cloud to delete the object.
func (s *Server) queueDelete(rec, next *object.Record) *object.Change {
	return &object.Change{
		Expect: rec.LocalRV, Record: next,
		Outgoing: []object.Outgoing{{
			Key: rec.Key, UID: rec.Version.UID, Op: object.OpDelete,
			Class: object.ClassState, Priority: object.PriorityPod, Created: s.deps.Clock.Now(),
		}},
	}
}

// checkDelete compares the preconditions of a deletion with what this API shows.
func checkDelete(r *resource, o object.Object, opts *metav1.DeleteOptions) error {
	if opts == nil || opts.Preconditions == nil {
		return nil
	}
	conflict := func(what string, want, have any) error {
		// The API server names the kind here, not the resource.
		gr := schema.GroupResource{Group: r.kind.Group, Resource: r.kind.Kind}
		return apierrors.NewConflict(gr, o.GetName(), fmt.Errorf("the %s expected is %v, that of the object is %v", what, want, have))
	}
	if uid := opts.Preconditions.UID; uid != nil && *uid != o.GetUID() {
		return conflict("UID", *uid, o.GetUID())
	}
	if rv := opts.Preconditions.ResourceVersion; rv != nil && *rv != o.GetResourceVersion() {
		return conflict("ResourceVersion", *rv, o.GetResourceVersion())
	}
	return nil
}

// effectiveGrace returns the grace period in seconds that the API server would give a pod.
func effectiveGrace(pod *corev1.Pod, opts *metav1.DeleteOptions) int64 {
	var grace int64
	switch {
	case opts != nil && opts.GracePeriodSeconds != nil:
		grace = *opts.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	if grace < 0 {
		return 1
	}
	return grace
}

// cloudRV is the resourceVersion inside a stored body.
func cloudRV(rec *object.Record) string {
	if rec.Version.RV == 0 {
		return ""
	}
	return object.FormatRV(rec.Version.RV)
}
