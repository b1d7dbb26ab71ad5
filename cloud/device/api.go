package device

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// fieldManager names CloudCore in managedFields.
const fieldManager = "cloudcore"

// requestTimeout bounds one request.
const requestTimeout = 15 * time.Second

type api struct{ client, events *rest.RESTClient }

// NewAPI returns the API of a server that config reaches as CloudCore. It makes no request. config's rate limits are not used:
// the Controller has its own.
func NewAPI(config *rest.Config) (API, error) {
	client, err := clientOf(config, "/apis", v1beta1.GroupVersion, v1beta1.AddToScheme)
	if err != nil {
		return nil, fmt.Errorf("make the client for devices: %w", err)
	}
	events, err := clientOf(config, "/api", corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, fmt.Errorf("make the client for Events: %w", err)
	}
	return api{client, events}, nil
}

func clientOf(config *rest.Config, path string, group schema.GroupVersion, add func(*runtime.Scheme) error) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	cfg := rest.CopyConfig(config)
	cfg.QPS, cfg.Timeout = -1, requestTimeout
	cfg.APIPath, cfg.GroupVersion = path, &group
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return rest.RESTClientFor(cfg)
}

func (a api) Device(ctx context.Context, key types.NamespacedName) (*v1beta1.Device, error) {
	d := &v1beta1.Device{}
	return d, a.client.Get().Namespace(key.Namespace).Resource(v1beta1.DeviceResource).Name(key.Name).MaxRetries(0).Do(ctx).Into(d)
}

func (a api) Status(ctx context.Context, key types.NamespacedName) (*v1beta1.DeviceStatus, error) {
	return into(ctx, a.status(a.client.Get(), key.Namespace).Name(key.Name))
}

func (a api) Create(ctx context.Context, s *v1beta1.DeviceStatus) (*v1beta1.DeviceStatus, error) {
	return into(ctx, a.status(a.client.Post(), s.Namespace).Param("fieldManager", fieldManager).Body(s))
}

func (a api) Patch(ctx context.Context, key types.NamespacedName, patch []byte) (*v1beta1.DeviceStatus, error) {
	return into(ctx, a.status(a.client.Patch(types.MergePatchType), key.Namespace).Name(key.Name).Param("fieldManager", fieldManager).Body(patch))
}

func (a api) Delete(ctx context.Context, key types.NamespacedName, uid types.UID) error {
	return a.status(a.client.Delete(), key.Namespace).Name(key.Name).Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}).Do(ctx).Error()
}

func (a api) Happened(ctx context.Context, e *corev1.Event) error {
	return a.events.Post().Namespace(e.Namespace).Resource("events").Param("fieldManager", fieldManager).MaxRetries(0).Body(e).Do(ctx).Error()
}

// status addresses DeviceStatuses. An answer of "too many requests" is the caller's to heed, not to be waited for here.
func (a api) status(r *rest.Request, namespace string) *rest.Request {
	return r.Namespace(namespace).Resource(v1beta1.DeviceStatusResource).MaxRetries(0)
}

func into(ctx context.Context, r *rest.Request) (*v1beta1.DeviceStatus, error) {
	s := &v1beta1.DeviceStatus{}
	return s, r.Do(ctx).Into(s)
}
