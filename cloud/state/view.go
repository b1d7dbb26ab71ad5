package state

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// A View is what one node sees now. It is safe for concurrent use and reads only memory.
type View struct {
	c *Cache
	n *nodeState
}

// Node returns the node's name.
func (v *View) Node() string { return v.n.name }

// NodeUID returns the uid of the Node object, "" where there is none.
func (v *View) NodeUID() string {
	v.c.mu.RLock()
	defer v.c.mu.RUnlock()
	return v.c.g.nodeUID(v.n.name)
}

// List calls visit for each object of a kind that the node sees, in no order. visit may use the View.
func (v *View) List(kind object.ID, visit func(object.Key, object.Version)) {
	type seen struct {
		e *entry
		v object.Version
	}
	var out []seen
	v.c.mu.RLock()
	if k := v.c.g.kinds[kind]; k != nil {
		entries := v.c.g.list(v.n, k)
		out = make([]seen, 0, len(entries))
		for _, e := range entries {
			out = append(out, seen{e, e.content.Load().version})
		}
	}
	v.c.mu.RUnlock()
	for _, s := range out {
		visit(s.e.key(), s.v)
	}
}

// Kinds returns the kinds that are sent to nodes, in rank order.
func (v *View) Kinds() []object.ID {
	return slices.DeleteFunc(v.c.Kinds(), func(id object.ID) bool {
		k, _ := object.Lookup(id)
		return k.CloudOnly
	})
}

// Get returns an object that the node sees; false if it is absent or not for this node. The body is shared: it must not
// be changed.
func (v *View) Get(key object.Key) (object.Item, bool) {
	e, b := v.find(key)
	if b == nil {
		return object.Item{}, false
	}
	b = v.c.finalize(e, b)
	return object.Item{Version: b.version, Body: b.data, Compressed: b.compressed}, true
}

func (v *View) find(key object.Key) (*entry, *content) {
	v.c.mu.RLock()
	defer v.c.mu.RUnlock()
	k := v.c.g.kinds[key.Kind]
	if k == nil {
		return nil, nil
	}
	e := k.entries[nameOf(key)]
	if e == nil || !v.c.g.sees(v.n, e) {
		return nil, nil
	}
	return e, e.content.Load()
}

// Cause says why the node does not see the object of that key and uid ("": whatever uid). heldNodeUID is the uid of the
// Node object that the edge's pods belong to, "" if it knows none: pods that are missing under another Node than that
// were lost with it. Cause is 0 for what the node does see, and for a pod that is only held back (Pending): it became
// visible since the caller looked, and must not be taken for gone.
func (v *View) Cause(key object.Key, uid, heldNodeUID string) object.Cause {
	v.c.mu.RLock()
	defer v.c.mu.RUnlock()
	return v.c.g.cause(v.n, key, uid, heldNodeUID)
}

// Pending reports whether key is a pod of this node that is held back until what it refers to is known to be absent or
// has come: it is neither listed nor gone. notify tells when that is over.
func (v *View) Pending(key object.Key) bool {
	v.c.mu.RLock()
	defer v.c.mu.RUnlock()
	k := v.c.g.kinds[key.Kind]
	if k == nil {
		return false
	}
	e := k.entries[nameOf(key)]
	return e != nil && v.c.g.held(v.n, e)
}

// Revision returns where this cache stands with a kind: the highest resourceVersion that a list, an event or a bookmark
// has brought, 0 before the first list. It goes back only when the API server itself did (etcd restored).
func (v *View) Revision(kind object.ID) uint64 {
	v.c.mu.RLock()
	defer v.c.mu.RUnlock()
	if k := v.c.g.kinds[kind]; k != nil {
		return k.revision.Load()
	}
	return 0
}

// held reports whether e is a pod of that node that the gate keeps back.
func (g *graph) held(n *nodeState, e *entry) bool {
	return e.kind.id == object.Pods && e.rel != nil && e.rel.node == n && e.rel.hold != nil
}

// stripes keep two sessions from compressing the same version at the same time.
type stripes struct {
	seed  maphash.Seed
	locks [64]sync.Mutex
}

// finalize returns b, compressed if that helps. The first caller does the work and the others share it.
func (c *Cache) finalize(e *entry, b *content) *content {
	if b.final {
		return b
	}
	l := &c.stripes.locks[maphash.Comparable(c.stripes.seed, e.name)%uint64(len(c.stripes.locks))]
	l.Lock()
	defer l.Unlock()
	if cur := e.content.Load(); cur != nil && cur.final && cur.version == b.version {
		return cur
	}
	f := &content{version: b.version, data: b.data, size: b.size, final: true}
	if out, ok := c.deps.Compressor.Compress(b.data); ok {
		f.data, f.compressed = bytes.Clone(out), true
	}
	c.m.compressions.WithLabelValues(string(e.kind.id)).Inc()
	// It fails if a newer version has come: then nobody else will ask for this one.
	if e.content.CompareAndSwap(b, f) {
		e.kind.bytes.Add(int64(len(f.data)) - int64(len(b.data)))
	}
	return f
}
