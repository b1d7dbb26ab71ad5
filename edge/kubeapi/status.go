package kubeapi

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// statusREST is a status subresource: it can be read, updated and patched, but neither listed nor watched.
type statusREST struct{ u *updater }

var _ rest.Patcher = statusREST{}

func (s statusREST) New() runtime.Object { return s.u.New() }

func (s statusREST) Destroy() {}

func (s statusREST) Get(ctx context.Context, name string, opts *metav1.GetOptions) (runtime.Object, error) {
	return s.u.Get(ctx, name, opts)
}

func (s statusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.u.Update(ctx, name, info, create, update, force, opts)
}
