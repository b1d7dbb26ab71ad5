package session

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/tether-edge/tether/common/object"
)

// simObject is an object in the simulated cluster. gen stands for all fields that the edge owns.
type simObject struct {
	object.Version
	visible bool
	gen     uint64
	// lost marks, in a log entry of a deletion, that pod garbage collection did it.
	lost bool
	gone bool
}

// simLog is what a watch of one kind delivers: every state of every key, in order.
type simLog struct {
	keys   []object.Key
	states []simObject
	rvs    []uint64
}

// simCluster is the API server: the truth, and a log per kind from which caches lag behind.
type simCluster struct {
	rnd     *rand.Rand
	rv      uint64
	uids    int
	foreign uint64
	objects map[object.Key]*simObject
	logs    map[object.ID]*simLog
	nodeUID string
	kinds   []object.ID
	// history remembers which uid of a key was deleted on purpose, for checking I8.
	deleted map[string]bool
	hidden  map[string]bool
}

func newSimCluster(rnd *rand.Rand) *simCluster {
	c := &simCluster{rnd: rnd, rv: 100, objects: map[object.Key]*simObject{}, logs: map[object.ID]*simLog{},
		kinds: []object.ID{object.Nodes, object.ConfigMaps, object.Pods}, deleted: map[string]bool{}, hidden: map[string]bool{}}
	for _, k := range c.kinds {
		c.logs[k] = &simLog{}
	}
	c.put(simNodeKey)
	return c
}

var simNodeKey = object.Key{Kind: object.Nodes, Name: "edge"}

func (c *simCluster) record(k object.Key, o simObject) {
	l := c.logs[k.Kind]
	l.keys = append(l.keys, k)
	l.states = append(l.states, o)
	l.rvs = append(l.rvs, c.rv)
}

func (c *simCluster) put(k object.Key) {
	c.rv++
	o := c.objects[k]
	if o == nil {
		c.uids++
		o = &simObject{Version: object.Version{UID: fmt.Sprintf("uid-%d", c.uids)}, visible: true}
		c.objects[k] = o
	}
	o.RV = c.rv
	if k == simNodeKey {
		c.nodeUID = o.UID
	}
	c.record(k, *o)
}

func (c *simCluster) remove(k object.Key, lost bool) {
	o := c.objects[k]
	if o == nil {
		return
	}
	c.rv++
	delete(c.objects, k)
	if !lost {
		c.deleted[o.UID] = true
	}
	if k == simNodeKey {
		c.nodeUID = ""
	}
	c.record(k, simObject{Version: o.Version, gone: true, lost: lost})
}

func (c *simCluster) toggle(k object.Key) {
	if o := c.objects[k]; o != nil && k != simNodeKey {
		o.visible = !o.visible
		if !o.visible {
			c.hidden[o.UID] = true
		}
		c.record(k, *o)
	}
}

// write is what the API server does with an edge's write: a precondition on the uid, no other.
func (c *simCluster) write(k object.Key, uid string, gen uint64) int {
	o := c.objects[k]
	switch {
	case o == nil:
		return 404
	case o.UID != uid:
		return 409
	case o.gen != gen:
		o.gen = gen
		c.put(k)
	}
	return 200
}

func (c *simCluster) key() object.Key {
	kinds := []object.ID{object.ConfigMaps, object.Pods}
	return object.Key{Kind: kinds[c.rnd.IntN(len(kinds))], Namespace: "default", Name: fmt.Sprintf("o%d", c.rnd.IntN(12))}
}

// overwrite is another writer that puts values of its own into fields that belong to the edge.
func (c *simCluster) overwrite(k object.Key) {
	if o := c.objects[k]; o != nil {
		c.foreign++
		o.gen = foreignGen + c.foreign
		c.put(k)
	}
}

// foreignGen is more than any generation that the edge writes.
const foreignGen = 1 << 40

// mutate makes one random change.
func (c *simCluster) mutate() {
	k := c.key()
	switch n := c.rnd.IntN(100); {
	case n < 8:
		c.overwrite(k)
	case n < 60:
		c.put(k)
	case n < 80:
		c.remove(k, false)
	case n < 94:
		c.toggle(k)
	case n < 97 && c.nodeUID != "":
		c.remove(simNodeKey, true)
		for _, p := range slices.SortedFunc(mapKeys(c.objects), object.Key.Compare) {
			if p.Kind == object.Pods && c.rnd.IntN(2) == 0 {
				c.remove(p, true)
			}
		}
	default:
		c.put(simNodeKey)
	}
}

// restore takes the cluster back to what it was some changes ago, as a restored etcd backup does.
func (c *simCluster) restore(back uint64) {
	c.rv -= min(back, c.rv-100)
	for _, id := range c.kinds {
		l := c.logs[id]
		n := 0
		for n < len(l.rvs) && l.rvs[n] <= c.rv {
			n++
		}
		l.keys, l.states, l.rvs = l.keys[:n], l.states[:n], l.rvs[:n]
		for k := range c.objects {
			if k.Kind == id {
				delete(c.objects, k)
			}
		}
		for i, k := range l.keys {
			if l.states[i].gone {
				delete(c.objects, k)
				continue
			}
			o := l.states[i]
			c.objects[k] = &o
		}
	}
	c.nodeUID = ""
	if o := c.objects[simNodeKey]; o != nil {
		c.nodeUID = o.UID
	}
}

// simCache is one cloudcore's cache: it has read a prefix of each kind's log. It implements View.
type simCache struct {
	cluster *simCluster
	pos     map[object.ID]int
	objects map[object.Key]simObject
	causes  map[string]object.Cause // by uid
	rev     map[object.ID]uint64
	changed func(object.Key)
}

// newSimCache lists the cluster as it was up to lag log entries ago in each kind.
func newSimCache(c *simCluster, lag func() int) *simCache {
	s := &simCache{cluster: c, pos: map[object.ID]int{}, objects: map[object.Key]simObject{},
		causes: map[string]object.Cause{}, rev: map[object.ID]uint64{}, changed: func(object.Key) {}}
	for _, id := range c.kinds {
		for n := max(0, len(c.logs[id].keys)-lag()); s.pos[id] < n; {
			s.step(id)
		}
		// A fresh list carries the list's own resourceVersion.
		if s.pos[id] == len(c.logs[id].keys) {
			s.rev[id] = c.rv
		}
	}
	return s
}

// step reads one more log entry of the kind, or learns by a bookmark that there is none.
func (s *simCache) step(id object.ID) {
	l := s.cluster.logs[id]
	if s.pos[id] > len(l.keys) { // the log was cut back by a restore: the watch broke, and lists anew
		*s = *newSimCache(s.cluster, func() int { return 0 })
		return
	}
	if s.pos[id] == len(l.keys) {
		s.rev[id] = s.cluster.rv
		return
	}
	i := s.pos[id]
	s.pos[id]++
	k, o := l.keys[i], l.states[i]
	s.rev[id] = max(s.rev[id], l.rvs[i])
	if o.gone {
		delete(s.objects, k)
		s.causes[o.UID] = object.CauseDeleted
		if o.lost {
			s.causes[o.UID] = object.CauseNodeGone
		}
	} else {
		s.objects[k] = o
	}
	s.changed(k)
}

func (s *simCache) List(id object.ID, visit func(object.Key, object.Version)) {
	for k, o := range s.objects {
		if k.Kind == id && o.visible {
			visit(k, o.Version)
		}
	}
}

func (s *simCache) Get(k object.Key) (object.Item, bool) {
	o, ok := s.objects[k]
	if !ok || !o.visible {
		return object.Item{}, false
	}
	return object.Item{Version: o.Version, Body: fmt.Appendf(nil, "%d %0*d", o.gen, 1+int(o.RV%64), 0)}, true
}

func (s *simCache) Cause(k object.Key, uid, held string) object.Cause {
	if s.NodeUID() == "" || (held != "" && held != s.NodeUID() && k.Kind == object.Pods) {
		return object.CauseNodeGone
	}
	if c, ok := s.causes[uid]; ok {
		return c
	}
	if o, ok := s.objects[k]; ok && o.UID == uid {
		return object.CauseOutOfInterest
	}
	return object.CauseDeleted
}

func (s *simCache) Pending(object.Key) bool      { return false }
func (s *simCache) Revision(id object.ID) uint64 { return s.rev[id] }
func (s *simCache) NodeUID() string              { return s.objects[simNodeKey].UID }
func (s *simCache) Kinds() []object.ID           { return s.cluster.kinds }
