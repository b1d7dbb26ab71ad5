package kubeapi

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

type verbHandler = http.HandlerFunc

const (
	// maxBody is the API server's own limit on request bodies, in bytes.
	maxBody = 3 << 20
	// watchTimeout is how long a watch lasts at least if its client names no time; the API server's default.
	watchTimeout = 30 * time.Minute
)

// patchTypes are the kinds of patch that are understood. Server-side apply is not among them: it needs to know who
// manages which field, which is the cloud's business.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType)}

// add makes the endpoint of a kind or of one of its subresources, with a handler for each verb of the storage.
func (s *Server) add(kind object.Kind, sub string, storage rest.Storage) error {
	scope, err := s.scope(kind, sub, storage)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind.ID(), sub, err)
	}
	serve := map[string]verbHandler{}
	lister, _ := storage.(rest.Lister)
	watcher, _ := storage.(rest.Watcher)
	if lister != nil {
		serve["list"] = handlers.ListResource(lister, watcher, scope, false, watchTimeout)
	}
	if lister != nil && watcher != nil {
		serve["watch"] = handlers.ListResource(lister, watcher, scope, true, watchTimeout)
	}
	if g, ok := storage.(rest.Getter); ok {
		serve["get"] = handlers.GetResource(g, scope)
	}
	// A create has no live object: with one that has no metadata the field manager leaves the new object alone.
	creating := *scope
	creating.Creater = noObjects{}
	if c, ok := storage.(rest.NamedCreater); ok {
		serve["create"] = handlers.CreateNamedResource(c, &creating, nil)
	} else if c, ok := storage.(rest.Creater); ok {
		serve["create"] = handlers.CreateResource(c, &creating, nil)
	}
	if p, ok := storage.(rest.Patcher); ok {
		serve["update"] = handlers.UpdateResource(p, scope, nil)
		serve["patch"] = handlers.PatchResource(p, scope, nil, patchTypes)
	}
	if d, ok := storage.(rest.GracefulDeleter); ok {
		serve["delete"] = handlers.DeleteResource(d, true, scope, nil)
	}
	e := &endpoint{kind: kind, sub: sub, storage: storage, serve: serve}
	for v := range serve {
		e.verbs = append(e.verbs, v)
	}
	slices.Sort(e.verbs)
	s.routes[routeKey(kind.Group, kind.Version, kind.Resource, sub)] = e
	return nil
}

func routeKey(group, version, resource, sub string) string {
	return group + "/" + version + "/" + resource + "/" + sub
}

// scope tells the handlers about one endpoint. The hub version is the external one: nothing is ever converted.
func (s *Server) scope(kind object.Kind, sub string, storage rest.Storage) (*handlers.RequestScope, error) {
	gvk := kind.GroupVersionKind
	if p, ok := storage.(rest.GroupVersionKindProvider); ok {
		gvk = p.GroupVersionKind(kind.GroupVersion())
	}
	scheme := s.codecs.scheme
	// No object here has managed fields, and the manager tracks none in objects that have none.
	manager, err := managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), scheme, scheme, scheme,
		gvk, gvk.GroupVersion(), sub, nil)
	if err != nil {
		return nil, fmt.Errorf("field manager: %w", err)
	}
	scope := &handlers.RequestScope{
		Namer:               handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor()), ClusterScoped: !kind.Namespaced},
		Serializer:          s.codecs.CodecFactory,
		ParameterCodec:      s.codecs.params,
		Creater:             scheme,
		Convertor:           scheme,
		Defaulter:           scheme,
		Typer:               scheme,
		UnsafeConvertor:     runtime.UnsafeObjectConvertor(scheme),
		FieldManager:        manager,
		Resource:            kind.GVR(),
		Kind:                gvk,
		Subresource:         sub,
		MetaGroupVersion:    metav1.SchemeGroupVersion,
		HubGroupVersion:     gvk.GroupVersion(),
		MaxRequestBodyBytes: maxBody,
	}
	if t, ok := storage.(rest.TableConvertor); ok {
		scope.TableConvertor = t
	}
	return scope, nil
}

// noObjects makes objects without metadata.
type noObjects struct{}

func (noObjects) New(schema.GroupVersionKind) (runtime.Object, error) { return &metav1.Status{}, nil }
