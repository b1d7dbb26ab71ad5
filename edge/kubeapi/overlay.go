package kubeapi

import (
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/tether-edge/tether/common/object"
)

// overlayChange returns the change that keeps what the kubelet wrote into one of its objects: the new overlay, the
// object as it is then served, and the whole overlay as the message for the cloud. It returns nil if the object is
// served as before.
func (s *Server) overlayChange(kind object.Kind, rec *object.Record, old, next object.Object, priority int) (*object.Change, error) {
	if rec.Origin == object.FromEdge {
		return s.localChange(kind, rec, old, next)
	}
	var previous *object.Overlay
	var err error
	if rec.Overlay != nil {
		if previous, err = object.DecodeOverlay(rec.Overlay); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.Key, err)
		}
	}
	overlay, err := object.Extend(previous, old, next)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rec.Key, err)
	}
	base, err := object.Decode(kind, rec.Cloud())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rec.Key, err)
	}
	merged := object.Merge(base, overlay)
	carryDeletion(merged, old)
	// What was served differs from the merge in the resourceVersion alone if the write changed nothing of the edge's.
	version := merged.GetResourceVersion()
	merged.SetResourceVersion(old.GetResourceVersion())
	if apiequality.Semantic.DeepEqual(merged, old) {
		return nil, nil
	}
	merged.SetResourceVersion(version)
	body, err := object.Encode(kind, merged)
	if err != nil {
		return nil, err
	}
	encoded, err := object.EncodeOverlay(overlay)
	if err != nil {
		return nil, err
	}
	return &object.Change{
		Expect: rec.LocalRV,
		Record: &object.Record{
			Key: rec.Key, Version: rec.Version, Origin: rec.Origin, Held: rec.Held, Withheld: rec.Withheld,
			Body: body, Base: rec.Cloud(), Overlay: encoded,
		},
		Outgoing: []object.Outgoing{{
			Key: rec.Key, UID: rec.Version.UID, Op: object.OpOverlay, Body: encoded,
			Class: object.ClassState, Priority: priority, Created: s.deps.Clock.Now(),
		}},
	}, nil
}

// localChange stores an object that the cloud knows nothing of.
func (s *Server) localChange(kind object.Kind, rec *object.Record, old, next object.Object) (*object.Change, error) {
	if apiequality.Semantic.DeepEqual(next, old) {
		return nil, nil
	}
	stored := next.DeepCopyObject().(object.Object)
	stored.SetResourceVersion("")
	body, err := object.Encode(kind, stored)
	if err != nil {
		return nil, err
	}
	changed := *rec
	changed.Body = body
	return &object.Change{Expect: rec.LocalRV, Record: &changed}, nil
}

// carryDeletion keeps the mark of a deletion that the kubelet asked for and that has not reached the cloud: the pod
// stays for its finalizers, and would otherwise come back to life with the next status.
func carryDeletion(merged, old object.Object) {
	if old.GetDeletionTimestamp() != nil {
		merged.SetDeletionTimestamp(old.GetDeletionTimestamp())
		merged.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
}
