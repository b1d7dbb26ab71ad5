// Package statetest is a cluster in memory for the tests of cloud/state and of those who read it: objects with growing
// resourceVersions, lists and watches (streamed lists too) that can be held back, broken and counted.
//
// It promises to behave as an API server does towards one reflector per kind. Only tests use it.
package statetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/tether-edge/tether/common/object"
)

// ErrUnavailable is what requests fail with after Fail.
var ErrUnavailable = errors.New("the test cluster is told to fail")

// A Cluster is the Source of a state.Cache. Make it with New; it is safe for concurrent use.
type Cluster struct {
	// mu guards everything below.
	mu     sync.Mutex
	rv     uint64
	uids   int
	scheme *runtime.Scheme
	kinds  map[object.ID]*kind
	fail   bool
	reads  map[object.Key]int
	// gates block live reads of a key until they are closed.
	gates map[object.Key]chan struct{}
}

type kind struct {
	object.Kind
	objects  map[object.Key]object.Object
	history  []watch.Event
	watchers map[*watcher]struct{}
	paused   bool
	unserved bool
	failing  bool
	waiting  []watch.Event
	floor    uint64 // watches cannot start below it
	lists    int
	watches  int
}

// New returns an empty cluster at revision 1.
func New() *Cluster {
	c := &Cluster{rv: 1, scheme: object.NewScheme(), kinds: map[object.ID]*kind{}, reads: map[object.Key]int{}, gates: map[object.Key]chan struct{}{}}
	for _, k := range object.Watched() {
		c.kinds[k.ID()] = &kind{Kind: k, objects: map[object.Key]object.Object{}, watchers: map[*watcher]struct{}{}}
	}
	return c
}

// Put creates or replaces an object and returns its key and version. A uid is given to a new object that has none; an
// existing one keeps its own unless o names another.
func (c *Cluster) Put(o object.Object) (object.Key, object.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o = o.DeepCopyObject().(object.Object)
	k := c.kindOf(o)
	key := object.KeyOf(k.ID(), o)
	old := k.objects[key]
	switch {
	case o.GetUID() != "":
	case old != nil:
		o.SetUID(old.GetUID())
	default:
		c.uids++
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", c.uids)))
	}
	c.rv++
	o.SetResourceVersion(object.FormatRV(c.rv))
	k.objects[key] = o
	t := watch.Added
	if old != nil {
		t = watch.Modified
	}
	k.emit(watch.Event{Type: t, Object: o})
	return key, object.Version{UID: string(o.GetUID()), RV: c.rv}
}

// Delete removes an object, if it is there, and returns the revision of that.
func (c *Cluster) Delete(key object.Key) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[key.Kind]
	old := k.objects[key]
	if old == nil {
		return c.rv
	}
	delete(k.objects, key)
	c.rv++
	o := old.DeepCopyObject().(object.Object)
	o.SetResourceVersion(object.FormatRV(c.rv))
	k.emit(watch.Event{Type: watch.Deleted, Object: o})
	return c.rv
}

// Objects returns copies of all objects of a kind.
func (c *Cluster) Objects(id object.ID) []object.Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []object.Object
	for _, o := range c.kinds[id].objects {
		out = append(out, o.DeepCopyObject().(object.Object))
	}
	return out
}

// Pause keeps a kind's watch events back until Resume. Lists and live reads show the truth meanwhile.
func (c *Cluster) Pause(id object.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[id].paused = true
}

// Resume lets the events of a kind go.
func (c *Cluster) Resume(id object.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[id]
	k.paused = false
	for _, e := range k.waiting {
		k.send(e)
	}
	k.waiting = nil
}

// Unserve makes the cluster one that does not have a kind.
func (c *Cluster) Unserve(id object.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[id].unserved = true
}

// Break ends the running watches of a kind; expire says that their resourceVersions cannot be resumed from.
func (c *Cluster) Break(id object.ID, expire bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[id]
	if expire {
		k.history, k.waiting, k.floor = nil, nil, c.rv
	}
	for w := range k.watchers {
		w.end()
	}
	clear(k.watchers)
}

// Restore takes the cluster back to what it was at a revision, as a backup of etcd does. Objects that changed since keep
// their content, with an older version.
func (c *Cluster) Restore(rv uint64) {
	c.mu.Lock()
	for _, k := range c.kinds {
		for key, o := range k.objects {
			if v, err := object.VersionOf(o); err == nil && v.RV > rv {
				older := o.DeepCopyObject().(object.Object)
				older.SetResourceVersion(object.FormatRV(rv))
				k.objects[key] = older
			}
		}
	}
	c.rv = rv
	ids := slices.Collect(maps.Keys(c.kinds))
	c.mu.Unlock()
	for _, id := range ids {
		c.Break(id, true)
	}
}

// Fail makes every request fail, or work again.
func (c *Cluster) Fail(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = on
}

// FailKind makes every list and watch of one kind fail, or work again.
func (c *Cluster) FailKind(id object.ID, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[id].failing = on
}

// Block makes live reads of a key wait until the returned function is called.
func (c *Cluster) Block(key object.Key) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{})
	c.gates[key] = ch
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.gates, key)
		close(ch)
	})
}

// Requests returns how many lists and watches a kind has had, and Reads how many live reads a key.
func (c *Cluster) Requests(id object.ID) (lists, watches int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds[id].lists, c.kinds[id].watches
}

// Reads returns how many live reads a key has had.
func (c *Cluster) Reads(key object.Key) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads[key]
}

// Bookmark tells the watchers of a kind the current revision.
func (c *Cluster) Bookmark(id object.ID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[id].send(watch.Event{Type: watch.Bookmark, Object: c.bookmark(c.kinds[id], false)})
	return c.rv
}

func (c *Cluster) bookmark(k *kind, initial bool) object.Object {
	o, err := object.New(k.Kind)
	if err != nil {
		panic(err)
	}
	o.SetResourceVersion(object.FormatRV(c.rv))
	if initial {
		o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return o
}

func (c *Cluster) kindOf(o object.Object) *kind {
	gvks, _, err := c.scheme.ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	for _, k := range c.kinds {
		if k.GroupVersionKind == gvks[0] {
			return k
		}
	}
	panic(fmt.Sprintf("%v is not a synced kind", gvks[0]))
}

func (k *kind) emit(e watch.Event) {
	k.history = append(k.history, e)
	if k.paused {
		k.waiting = append(k.waiting, e)
		return
	}
	k.send(e)
}

func (k *kind) send(e watch.Event) {
	for w := range k.watchers {
		w.push(e)
	}
}

// Serves implements state.Source.
func (c *Cluster) Serves(_ context.Context, k object.Kind) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return false, ErrUnavailable
	}
	return !c.kinds[k.ID()].unserved, nil
}

// Exists implements state.Source.
func (c *Cluster) Exists(ctx context.Context, key object.Key) (uint64, error) {
	c.mu.Lock()
	c.reads[key]++
	gate, fail := c.gates[key], c.fail
	c.mu.Unlock()
	if fail {
		return 0, ErrUnavailable
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.kinds[key.Kind].objects[key]
	if o == nil {
		return 0, nil
	}
	return object.ParseRV(o.GetResourceVersion())
}

// Revision implements state.Source.
func (c *Cluster) Revision(context.Context) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return 0, ErrUnavailable
	}
	return c.rv, nil
}

// ListWatch implements state.Source.
func (c *Cluster) ListWatch(k object.Kind) cache.ListerWatcherWithContext {
	return &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) { return c.list(k) },
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.watch(k.ID(), o)
		},
	}
}

func (c *Cluster) list(k object.Kind) (runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.kinds[k.ID()]
	s.lists++
	if c.fail || s.failing {
		return nil, ErrUnavailable
	}
	list, err := c.scheme.New(k.GroupVersion().WithKind(k.Kind + "List"))
	if err != nil {
		return nil, err
	}
	var items []runtime.Object
	for _, o := range s.objects {
		items = append(items, o.DeepCopyObject())
	}
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	list.(metav1.ListMetaAccessor).GetListMeta().SetResourceVersion(object.FormatRV(c.rv))
	return list, nil
}

func (c *Cluster) watch(id object.ID, o metav1.ListOptions) (watch.Interface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds[id]
	k.watches++
	if c.fail || k.failing {
		return nil, ErrUnavailable
	}
	w := newWatcher()
	if o.SendInitialEvents != nil && *o.SendInitialEvents {
		keys := slices.SortedFunc(maps.Keys(k.objects), object.Key.Compare)
		for _, key := range keys {
			w.push(watch.Event{Type: watch.Added, Object: k.objects[key]})
		}
		w.push(watch.Event{Type: watch.Bookmark, Object: c.bookmark(k, true)})
	} else {
		from, err := object.ParseRV(o.ResourceVersion)
		if err != nil {
			return nil, err
		}
		if from < k.floor || from > c.rv {
			w.end()
			return nil, apierrors.NewResourceExpired("the test cluster has forgotten")
		}
		for _, e := range k.history {
			if rv, _ := object.ParseRV(e.Object.(object.Object).GetResourceVersion()); rv > from {
				w.push(e)
			}
		}
		w.push(watch.Event{Type: watch.Bookmark, Object: c.bookmark(k, false)}) // a real one comes within a minute
	}
	k.watchers[w] = struct{}{}
	return w, nil
}
