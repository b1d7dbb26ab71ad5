package state

import (
	"sync/atomic"

	"github.com/tether-edge/tether/common/object"
)

// A name is a key without its kind.
type name struct{ namespace, name string }

func nameOf(k object.Key) name { return name{k.Namespace, k.Name} }

// content is one version of an object. It is never changed, only replaced.
type content struct {
	version object.Version
	data    []byte
	size    uint32 // of the encoded object, before compression
	// final is set once compression was tried; compressed if it helped.
	final, compressed bool
}

// An entry stands for one key: an object, or the place of one that something refers to and that does not exist.
type entry struct {
	kind *kindState
	name name
	// content is nil where the object does not exist. It is written under Cache.mu, except that a compressed body
	// replaces the plain one of the same version.
	content atomic.Pointer[content]
	// seen are the nodes that see the object because they refer to it.
	seen nodeSet
	// pins counts the PersistentVolumes that need this Secret, whether a node sees them or not.
	pins uint32
	// rel is nil for entries that refer to nothing.
	rel *relations
}

// relations are an entry's links to others. Which fields are used depends on the kind.
type relations struct {
	// node is where a Pod is bound, a VolumeAttachment attaches or a Device is; nil if nowhere.
	node *nodeState
	// refs are what a bound Pod refers to, the Secrets of a PersistentVolume, or a Device's model; without duplicates.
	refs []*entry
	// claim is the PersistentVolumeClaim that a PersistentVolume is reserved for.
	claim *entry
	// volumes are the PersistentVolumes reserved for a PersistentVolumeClaim.
	volumes []*entry
	// collected: pod garbage collection wrote into the Pod that its Node is gone.
	collected bool
	// unchecked: the Pod came by watch and what it lacks has not been looked up; hold: it is held back meanwhile.
	unchecked bool
	hold      *hold
}

func (e *entry) key() object.Key {
	return object.Key{Kind: e.kind.id, Namespace: e.name.namespace, Name: e.name.name}
}

func (e *entry) present() bool { return e.content.Load() != nil }

func (e *entry) links() *relations {
	if e.rel == nil {
		e.rel = &relations{}
	}
	return e.rel
}

// drop forgets an entry that stands for nothing any more.
func (e *entry) drop() {
	if e.present() || e.seen.len() > 0 || e.pins > 0 || (e.rel != nil && (len(e.rel.volumes) > 0 || e.rel.node != nil)) {
		return
	}
	if _, waited := e.kind.waits[e]; waited {
		return
	}
	if e.kind.entries[e.name] == e {
		delete(e.kind.entries, e.name)
	}
}

// A kindState is all that is known of one kind.
type kindState struct {
	id      object.ID
	kind    object.Kind
	entries map[name]*entry
	listed  bool // the first list is in
	done    chan struct{}
	// waits are the absent objects of this kind that pods wait for.
	waits map[*entry]*lookup
	// followers are told of every change.
	followers []*subscription
	// revision is where the list and watch stand; objects, bytes are what is held. All three are read without a lock.
	revision, objects atomic.Uint64
	bytes             atomic.Int64
}

func (k *kindState) entry(n name) *entry {
	e := k.entries[n]
	if e == nil {
		e = &entry{kind: k, name: n}
		k.entries[n] = e
	}
	return e
}

// setContent replaces what e holds (nil: nothing) and keeps count.
func (e *entry) setContent(b *content) {
	for {
		old := e.content.Load()
		if !e.content.CompareAndSwap(old, b) {
			continue // a reader has just put the compressed body in place
		}
		if old != nil {
			e.kind.objects.Add(^uint64(0))
			e.kind.bytes.Add(-int64(len(old.data)))
		}
		if b != nil {
			e.kind.objects.Add(1)
			e.kind.bytes.Add(int64(len(b.data)))
		}
		return
	}
}

// A nodeSet is a set of nodes: most have one or two, some have all.
type nodeSet struct {
	few  []*nodeState
	many map[*nodeState]struct{}
}

const maxFew = 8

func (s *nodeSet) len() int { return len(s.few) + len(s.many) }

func (s *nodeSet) add(n *nodeState) {
	if s.many == nil && len(s.few) < maxFew {
		s.few = append(s.few, n)
		return
	}
	if s.many == nil {
		s.many = make(map[*nodeState]struct{}, 2*maxFew)
		for _, f := range s.few {
			s.many[f] = struct{}{}
		}
		s.few = nil
	}
	s.many[n] = struct{}{}
}

func (s *nodeSet) remove(n *nodeState) {
	if s.many != nil {
		delete(s.many, n)
		if len(s.many) == 0 {
			s.many = nil
		}
		return
	}
	for i, f := range s.few {
		if f == n {
			last := len(s.few) - 1
			s.few[i], s.few[last] = s.few[last], nil
			s.few = s.few[:last]
			if last == 0 {
				s.few = nil
			}
			return
		}
	}
}

// all calls yield for each node until it returns false. The set must not change meanwhile.
func (s *nodeSet) all(yield func(*nodeState) bool) {
	for _, n := range s.few {
		if !yield(n) {
			return
		}
	}
	for n := range s.many {
		if !yield(n) {
			return
		}
	}
}
