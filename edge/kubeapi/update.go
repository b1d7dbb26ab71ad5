package kubeapi

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// changeFunc turns an update of old into new into a change of the store. It returns nil where nothing is to be done,
// an API error where the client may not do it, and may modify new, never old.
type changeFunc func(ctx context.Context, rec *object.Record, old, new object.Object) (*object.Change, error)

// updater is the PUT and PATCH side of a resource or of one of its subresources.
type updater struct {
	*resource
	change changeFunc
	apply  func(ctx context.Context, c object.Change) (*object.Record, error)
	// ask, which may be nil, has the cloud do what only it can do of an update that change allows. It is not called for
	// a dry run.
	ask func(ctx context.Context, old, new object.Object) error
}

var _ rest.Patcher = &updater{}

// updateTries bounds how often an update is computed anew when others write the same object.
const updateTries = 8

// Update implements rest.Updater. Objects are never created by it.
func (u *updater) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	for range updateTries {
		rec, err := u.lookup(ctx, name)
		if err != nil {
			return nil, false, err
		}
		shown, err := u.update(ctx, rec, info, validate, len(opts.DryRun) > 0)
		if errors.Is(err, object.ErrConflict) {
			continue
		}
		return shown, false, err
	}
	return nil, false, apierrors.NewConflict(u.groupResource(), name,
		errors.New("the object is written faster than this update can be computed; please try again"))
}

func (u *updater) update(ctx context.Context, rec *object.Record, info rest.UpdatedObjectInfo,
	validate rest.ValidateObjectUpdateFunc, dryRun bool) (runtime.Object, error) {
	old, err := u.decode(rec)
	if err != nil {
		return nil, internal(ctx, "read the store", err)
	}
	// The patch is computed on a copy: old is compared with the result.
	updated, err := info.UpdatedObject(ctx, old.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	next, ok := updated.(object.Object)
	if !ok {
		return nil, badRequest("the update yields a %T, expected a %s", updated, u.kind.Kind)
	}
	if err := checkPreconditions(u.resource, info.Preconditions(), old, next); err != nil {
		return nil, err
	}
	keepSystemFields(next, old)
	if validate != nil {
		if err := validate(ctx, next, old); err != nil {
			return nil, err
		}
	}
	c, err := u.change(ctx, rec, old, next)
	if err != nil {
		return nil, err
	}
	if u.ask != nil && !dryRun {
		if err := u.ask(ctx, old, next); err != nil {
			return nil, err
		}
	}
	if c == nil || dryRun {
		return u.show(rec)
	}
	stored, err := u.apply(ctx, *c)
	if err != nil {
		if errors.Is(err, object.ErrConflict) {
			return nil, err
		}
		return nil, internal(ctx, "write the store", err)
	}
	return u.show(stored)
}

// checkPreconditions compares with the versions that this API shows.
func checkPreconditions(r *resource, pre *metav1.Preconditions, old, next object.Object) error {
	if pre != nil && pre.UID != nil && *pre.UID != old.GetUID() {
		return apierrors.NewConflict(r.groupResource(), old.GetName(),
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *pre.UID, old.GetUID()))
	}
	if rv := next.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return apierrors.NewConflict(r.groupResource(), old.GetName(),
			errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	if uid := next.GetUID(); uid != "" && uid != old.GetUID() {
		return apierrors.NewInvalid(r.kind.GroupVersionKind.GroupKind(), old.GetName(), field.ErrorList{
			field.Invalid(field.NewPath("metadata", "uid"), uid, "field is immutable"),
		})
	}
	return nil
}

// keepSystemFields takes back what no client may write.
func keepSystemFields(next, old object.Object) {
	next.SetUID(old.GetUID())
	next.SetResourceVersion(old.GetResourceVersion())
	next.SetCreationTimestamp(old.GetCreationTimestamp())
	next.SetDeletionTimestamp(old.GetDeletionTimestamp())
	next.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	next.SetGeneration(old.GetGeneration())
	next.SetSelfLink("")
	next.SetManagedFields(nil)
	next.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
}
