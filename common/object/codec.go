package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// Object is any typed Kubernetes API object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// NewScheme returns a scheme with the API groups of the kinds in this package, in their external versions only.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, storagev1.AddToScheme, nodev1.AddToScheme, coordinationv1.AddToScheme, resourcev1.AddToScheme,
		v1beta1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	return s
}

var (
	scheme = NewScheme()
	codec  = protobuf.NewSerializer(scheme, scheme)
)

// New returns an empty object of the kind.
func New(k Kind) (Object, error) {
	o, err := scheme.New(k.GroupVersionKind)
	if err != nil {
		return nil, fmt.Errorf("new %s: %w", k.ID(), err)
	}
	return o.(Object), nil
}

// Encode returns o as Kubernetes protobuf, enveloped with its apiVersion and kind (the API server's storage format,
// described in k8s.io/apimachinery/pkg/runtime/serializer/protobuf). Of a custom kind it is JSON, as the API server stores it.
func Encode(k Kind, o runtime.Object) ([]byte, error) {
	// The serializer reads the type from the object; lists and watches leave it empty.
	if o.GetObjectKind().GroupVersionKind() != k.GroupVersionKind {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	}
	if k.Custom {
		b, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", k.ID(), err)
		}
		return b, nil
	}
	var b bytes.Buffer
	if err := codec.Encode(o, &b); err != nil {
		return nil, fmt.Errorf("encode %s: %w", k.ID(), err)
	}
	return b.Bytes(), nil
}

// Decode reads what Encode wrote. It returns an error, never a panic, for any input, and refuses a body of another
// kind.
func Decode(k Kind, body []byte) (Object, error) {
	if k.Custom {
		return decodeJSON(k, body)
	}
	o, gvk, err := codec.Decode(body, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decode %s of %d bytes: %w", k.ID(), len(body), err)
	}
	if *gvk != k.GroupVersionKind {
		return nil, fmt.Errorf("decode %s: the body is a %s, expected %s", k.ID(), gvk, k.GroupVersionKind)
	}
	obj, ok := o.(Object)
	if !ok {
		return nil, fmt.Errorf("decode %s: %T has no metadata: %w", k.ID(), o, io.ErrUnexpectedEOF)
	}
	return obj, nil
}

func decodeJSON(k Kind, body []byte) (Object, error) {
	o, err := New(k)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, o); err != nil {
		return nil, fmt.Errorf("decode %s of %d bytes: %w", k.ID(), len(body), err)
	}
	if gvk := o.GetObjectKind().GroupVersionKind(); gvk != k.GroupVersionKind {
		return nil, fmt.Errorf("decode %s: the body is a %s, expected %s", k.ID(), gvk, k.GroupVersionKind)
	}
	return o, nil
}

// KeyOf returns the key of o.
func KeyOf(id ID, o metav1.Object) Key {
	return Key{Kind: id, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// VersionOf returns the version of o, or an error if the API server gave it a resourceVersion that is no integer.
func VersionOf(o metav1.Object) (Version, error) {
	rv, err := ParseRV(o.GetResourceVersion())
	if err != nil {
		return Version{}, err
	}
	return Version{UID: string(o.GetUID()), RV: rv}, nil
}

// Strip removes what the edge never needs: managedFields, and nothing else.
func Strip(o runtime.Object) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
}
