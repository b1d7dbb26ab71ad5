package state

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/tether-edge/tether/common/object"
)

// A Source is where the objects come from: an API server. Its methods block for a request and honour ctx.
type Source interface {
	// Serves reports whether the API server has the kind in the version that Tether uses.
	Serves(ctx context.Context, k object.Kind) (bool, error)
	// ListWatch lists and watches a kind in all namespaces. The objects that it returns are given away.
	ListWatch(k object.Kind) cache.ListerWatcherWithContext
	// Exists reads one object and returns its resourceVersion, 0 where there is no such object.
	Exists(ctx context.Context, key object.Key) (rv uint64, err error)
	// Revision returns the current resourceVersion by a quorum read.
	Revision(ctx context.Context) (uint64, error)
}

// NewSource returns the Source of an API server. It reads protobuf. Its client is not rate limited: the Cache makes
// one watch per kind and bounds its reads itself. It needs the verbs get, list and watch on all of object.Watched().
func NewSource(config *rest.Config) (Source, error) {
	cfg := rest.CopyConfig(config)
	cfg.QPS = -1
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make the API server's HTTP client: %w", err)
	}
	scheme := object.NewScheme()
	s := &apiSource{
		scheme: scheme, params: runtime.NewParameterCodec(scheme), clients: map[schema.GroupVersion]rest.Interface{},
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	for _, k := range object.Watched() {
		gv := k.GroupVersion()
		if s.clients[gv] != nil {
			continue
		}
		c := rest.CopyConfig(cfg)
		c.GroupVersion, c.APIPath = &gv, apiPath(gv)
		if s.clients[gv], err = rest.RESTClientForConfigAndClient(c, http); err != nil {
			return nil, fmt.Errorf("make the client for %s: %w", gv, err)
		}
	}
	return s, nil
}

func apiPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api"
	}
	return "/apis"
}

type apiSource struct {
	scheme  *runtime.Scheme
	params  runtime.ParameterCodec
	clients map[schema.GroupVersion]rest.Interface
}

func (s *apiSource) Serves(ctx context.Context, k object.Kind) (bool, error) {
	list := &metav1.APIResourceList{}
	err := s.clients[k.GroupVersion()].Get().AbsPath(apiPath(k.GroupVersion()), k.Group, k.Version).Do(ctx).Into(list)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("discover %s: %w", k.GroupVersion(), err)
	}
	for _, r := range list.APIResources {
		if r.Name == k.Resource {
			return true, nil
		}
	}
	return false, nil
}

func (s *apiSource) ListWatch(k object.Kind) cache.ListerWatcherWithContext {
	c := s.clients[k.GroupVersion()]
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return s.list(ctx, k, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return c.Get().Resource(k.Resource).VersionedParams(&o, s.params).Watch(ctx)
		},
	}
}

func (s *apiSource) list(ctx context.Context, k object.Kind, o metav1.ListOptions) (runtime.Object, error) {
	list, err := s.scheme.New(k.GroupVersion().WithKind(k.Kind + "List"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.ID(), err)
	}
	if err := s.clients[k.GroupVersion()].Get().Resource(k.Resource).VersionedParams(&o, s.params).Do(ctx).Into(list); err != nil {
		return nil, fmt.Errorf("list %s: %w", k.ID(), err)
	}
	return list, nil
}

func (s *apiSource) Exists(ctx context.Context, key object.Key) (uint64, error) {
	k, ok := object.Lookup(key.Kind)
	if !ok {
		return 0, fmt.Errorf("get %s: the kind is not known", key)
	}
	o, err := object.New(k)
	if err != nil {
		return 0, err
	}
	err = s.clients[k.GroupVersion()].Get().NamespaceIfScoped(key.Namespace, k.Namespaced).Resource(k.Resource).
		Name(key.Name).Do(ctx).Into(o)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	return object.ParseRV(o.GetResourceVersion())
}

func (s *apiSource) Revision(ctx context.Context) (uint64, error) {
	nodes, _ := object.Lookup(object.Nodes)
	list, err := s.list(ctx, nodes, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	return object.ParseRV(list.(metav1.ListMetaAccessor).GetListMeta().GetResourceVersion())
}
