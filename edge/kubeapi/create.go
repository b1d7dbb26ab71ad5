package kubeapi

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/tether-edge/tether/common/object"
)

// prepareCreate gives a new object of this edge what the API server would: a name, a uid and a time.
func (r *resource) prepareCreate(o object.Object) error {
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(names.SimpleNameGenerator.GenerateName(o.GetGenerateName()))
	}
	if o.GetName() == "" {
		return apierrors.NewInvalid(r.kind.GroupVersionKind.GroupKind(), "", field.ErrorList{
			field.Required(field.NewPath("metadata", "name"), "name or generateName is required"),
		})
	}
	if err := object.KeyOf(r.kind.ID(), o).Validate(); err != nil {
		return apierrors.NewInvalid(r.kind.GroupVersionKind.GroupKind(), o.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), o.GetName(), err.Error()),
		})
	}
	if o.GetResourceVersion() != "" {
		return badRequest("resourceVersion should not be set on objects to be created")
	}
	o.SetUID(uuid.NewUUID())
	o.SetCreationTimestamp(metav1.NewTime(r.s.deps.Clock.Now().Truncate(time.Second)))
	o.SetGeneration(0)
	o.SetSelfLink("")
	o.SetManagedFields(nil)
	return nil
}

// local returns the record of an object that this edge made.
func (r *resource) local(o object.Object) (*object.Record, error) {
	stored := o.DeepCopyObject().(object.Object)
	stored.SetResourceVersion("")
	body, err := object.Encode(r.kind, stored)
	if err != nil {
		return nil, err
	}
	return &object.Record{Key: object.KeyOf(r.kind.ID(), o), Origin: object.FromEdge, Body: body}, nil
}

// message returns the object as it goes up: without what is the edge's own about it.
func (r *resource) message(o object.Object) ([]byte, error) {
	sent := o.DeepCopyObject().(object.Object)
	sent.SetUID("")
	sent.SetResourceVersion("")
	sent.SetCreationTimestamp(metav1.Time{})
	return object.Encode(r.kind, sent)
}

// storeCreated stores a new record and shows it. A record of that name is an AlreadyExists.
func (r *resource) storeCreated(ctx context.Context, o object.Object, c object.Change,
	apply func(context.Context, object.Change) (*object.Record, error)) (object.Object, error) {
	stored, err := apply(ctx, c)
	switch {
	case isConflict(err):
		return nil, apierrors.NewAlreadyExists(r.groupResource(), o.GetName())
	case err != nil:
		return nil, internal(ctx, "write the store", err)
	}
	return r.show(stored)
}

func alreadyExists(r *resource, name string) error {
	return apierrors.NewAlreadyExists(r.groupResource(), name)
}
