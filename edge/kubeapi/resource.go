package kubeapi

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"github.com/tether-edge/tether/common/object"
)

// A source is where a kind's records are read: the store, or a memory.
type source interface {
	Get(ctx context.Context, key object.Key) (*object.Record, bool, error)
	List(ctx context.Context, kind object.ID, namespace string) ([]*object.Record, uint64, error)
	Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error)
}

// resource is the reading side of one kind: what rest.Getter, rest.Lister and rest.Watcher ask for.
type resource struct {
	s    *Server
	kind object.Kind
	src  source
	// synced says whether an object's absence is known; before, reads answer 503.
	synced func() bool
	// guarded kinds are not read at all before they are synced, not even what is there: the kubelet would act on a
	// part of the pods.
	guarded bool
	table   rest.TableConvertor
}

var (
	_ rest.Getter  = &resource{}
	_ rest.Lister  = &resource{}
	_ rest.Watcher = &resource{}
)

func (r *resource) New() runtime.Object {
	o, err := r.s.codecs.scheme.New(r.kind.GroupVersionKind)
	if err != nil {
		// The scheme and the kinds are both of common/object, whose test makes one object of each.
		panic(err)
	}
	return o
}

func (r *resource) NewList() runtime.Object {
	gvk := r.kind.GroupVersionKind
	gvk.Kind += "List"
	o, err := r.s.codecs.scheme.New(gvk)
	if err != nil {
		panic(err) // as in New
	}
	return o
}

func (r *resource) Destroy() {}

// isKubelet reports whether a request is the kubelet's, which is not shown what is withheld from it.
func (s *Server) isKubelet(ctx context.Context) bool {
	u, ok := request.UserFrom(ctx)
	return ok && u.GetName() == s.node.GetName() && len(u.GetExtra()) == 0
}

// isOwn reports whether a request is of this program, the kubelet's or another part's.
func (s *Server) isOwn(ctx context.Context) bool {
	u, ok := request.UserFrom(ctx)
	return ok && u.GetName() == s.node.GetName()
}

func (r *resource) groupResource() schema.GroupResource { return r.kind.GVR().GroupResource() }

func (r *resource) key(ctx context.Context, name string) object.Key {
	return object.Key{Kind: r.kind.ID(), Namespace: request.NamespaceValue(ctx), Name: name}
}

// decode returns a record's object as it is stored, with the local resourceVersion.
func (r *resource) decode(rec *object.Record) (object.Object, error) {
	o, err := object.Decode(r.kind, rec.Body)
	if err != nil {
		return nil, fmt.Errorf("stored %s: %w", rec.Key, err)
	}
	o.SetResourceVersion(object.FormatRV(rec.LocalRV))
	return o, nil
}

// show returns a record's object as clients see it.
func (r *resource) show(rec *object.Record) (object.Object, error) {
	o, err := r.decode(rec)
	if err != nil {
		return nil, err
	}
	return r.s.withTwins(r.s.deps.View(o)), nil
}

// errNotSynced is the answer while the store does not know a kind: 503, never 404 or an empty list.
func (r *resource) errNotSynced() error {
	return unavailable("%s are not synced with the cloud yet: nothing is known about them until this node has been connected once",
		r.groupResource())
}

// lookup returns the record of a name, or the API error that says why there is none.
func (r *resource) lookup(ctx context.Context, name string) (*object.Record, error) {
	if r.guarded && !r.synced() {
		return nil, r.errNotSynced()
	}
	rec, ok, err := r.src.Get(ctx, r.key(ctx, name))
	switch {
	case err != nil:
		return nil, internal(ctx, "read the store", err)
	case ok && rec.Sealed:
		return nil, errSealed(rec.Key)
	case ok && !(rec.Withheld && r.s.isKubelet(ctx)):
		return rec, nil
	case !r.synced():
		return nil, r.errNotSynced()
	}
	return nil, notFound(r.groupResource(), name)
}

// Get implements rest.Getter. Any resourceVersion is answered with the newest state.
func (r *resource) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	rec, err := r.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	o, err := r.show(rec)
	if err != nil {
		return nil, internal(ctx, "read the store", err)
	}
	if !r.s.isKubelet(ctx) {
		tellKept(o, rec)
	}
	return o, nil
}

// List implements rest.Lister. The whole list is returned, whatever the limit.
func (r *resource) List(ctx context.Context, opts *metainternalversion.ListOptions) (runtime.Object, error) {
	if !r.synced() {
		return nil, r.errNotSynced()
	}
	if opts.Continue != "" {
		return nil, expired("The provided continue parameter is too old: lists are whole here, start over without it")
	}
	sel := newSelector(request.NamespaceValue(ctx), opts)
	sel.kubelet = r.s.isKubelet(ctx)
	if r.waitsForDevices(ctx) {
		r.s.late.begin()
		sel.hides = r.s.late.hides
	}
	recs, rv, err := r.src.List(ctx, r.kind.ID(), sel.namespace)
	if err != nil {
		return nil, internal(ctx, "list the store", err)
	}
	if err := checkListVersion(opts, rv); err != nil {
		return nil, err
	}
	var items []runtime.Object
	for _, rec := range recs {
		o, err := r.selected(rec, sel)
		if err != nil {
			return nil, internal(ctx, "read the store", err)
		}
		if o != nil {
			// The list says once what its items are.
			o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			items = append(items, o)
		}
	}
	list := r.NewList()
	if err := meta.SetList(list, items); err != nil {
		return nil, internal(ctx, "build the list", err)
	}
	acc, err := meta.ListAccessor(list)
	if err != nil {
		return nil, internal(ctx, "build the list", err)
	}
	acc.SetResourceVersion(object.FormatRV(rv))
	return list, nil
}

// errSealed is the answer for an object that cannot be opened: 503, never 404, or a pod to which it is optional would go
// on without it.
func errSealed(k object.Key) error {
	return unavailable("%s is stored, but the key that it was sealed with is lost: it comes again with the next link to the cloud", k)
}

// selected returns a record's object as clients see it, or nil if the selector does not want it.
func (r *resource) selected(rec *object.Record, sel selector) (object.Object, error) {
	if rec == nil || !sel.mayMatch(rec.Key) || rec.Withheld && sel.kubelet {
		return nil, nil
	}
	if rec.Sealed {
		if sel.name != "" {
			return nil, errSealed(rec.Key)
		}
		r.s.deps.Log.Warn("a stored object is left out: the key that it was sealed with is lost", "key", rec.Key.String())
		return nil, nil
	}
	o, err := r.show(rec)
	if err != nil && !r.guarded {
		// One damaged Secret holds up the pods that use it, and not the reading of all others. A pod that is left out
		// would be stopped, so there the whole read fails.
		r.s.deps.Log.Error("a stored object cannot be read, it is left out", "key", rec.Key.String(), "err", err)
		return nil, nil
	}
	if err != nil || !sel.matches(o) {
		return nil, err
	}
	if !sel.kubelet {
		tellKept(o, rec)
	}
	return o, nil
}

// tellKept tells people how a pod is that is not as the cluster has it.
func tellKept(o object.Object, rec *object.Record) {
	how := ""
	switch {
	case rec.Key.Kind != object.Pods:
	case rec.Withheld:
		how = object.KeptWithheld
	case rec.Held:
		how = object.KeptHeld
	case o.GetAnnotations()[object.AnnotationStandInFor] != "":
		how = object.KeptStandIn
	}
	if how == "" {
		return
	}
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[object.AnnotationKept] = how
	o.SetAnnotations(annotations)
}

// checkListVersion applies the meaning of resourceVersion and resourceVersionMatch to a list made at version at.
func checkListVersion(opts *metainternalversion.ListOptions, at uint64) error {
	want, err := parseVersion(opts.ResourceVersion)
	if err != nil || want == 0 {
		return err
	}
	if want > at {
		return storage.NewTooLargeResourceVersionError(want, at, 1)
	}
	if opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact && want != at {
		return expired("The resourceVersion for the provided list is too old.")
	}
	return nil
}

// parseVersion reads the resourceVersion of a list or watch; "" and "0" are 0.
func parseVersion(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, badRequest("invalid resource version %q: expected a number that this server gave out", s)
	}
	return v, nil
}

// ConvertToTable implements rest.TableConvertor for `kubectl get`.
func (r *resource) ConvertToTable(ctx context.Context, o, opts runtime.Object) (*metav1.Table, error) {
	return r.table.ConvertToTable(ctx, o, opts)
}

func (r *resource) NamespaceScoped() bool { return r.kind.Namespaced }
