package fleet

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/edge/link"
)

// store is what a simulated edge holds, in the place of edge/store: versions without bodies, and what waits for the cloud.
// A commit takes no time.
type store struct {
	id   string
	node string

	mu      sync.Mutex // guards what follows
	epoch   string
	objects map[object.Key]held
	queue   map[uint64]object.Outgoing
	slots   map[slot]uint64 // what waits, by what a newer one replaces
	next    uint64
	reader  *outbox // the present session's; nil before the first
	kubelet kubelet
}

// held is one object.
type held struct {
	version object.Version
	at      time.Time // when this version was committed
	first   time.Time // when the object was
}

// slot is what there is one queued write of: see edge/store.
type slot struct {
	key object.Key
	op  object.Op
	uid string
}

func newStore(node string) *store {
	return &store{id: "fleet-" + node, node: node, objects: map[object.Key]held{}, queue: map[uint64]object.Outgoing{}, slots: map[slot]uint64{},
		kubelet: newKubelet(node)}
}

func (s *store) ID() string        { return s.id }
func (s *store) Dropped() []uint64 { return nil }

func (s *store) Epoch() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

func (s *store) SetEpoch(_ context.Context, epoch string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = epoch
	return nil
}

// AssertAll does nothing: a simulated edge writes no overlays but when a scenario has it.
func (s *store) AssertAll(context.Context) error { return nil }

func (s *store) MarkSynced(context.Context, []object.ID) error { return nil }

func (s *store) Digests(context.Context) (map[object.ID]object.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[object.ID]object.Digest{}
	for k, h := range s.objects {
		d := out[k.Kind]
		d.Add(k, h.version)
		out[k.Kind] = d
	}
	return out, nil
}

func (s *store) Inventory(_ context.Context, kind object.ID, visit func(object.Key, object.Version) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, h := range s.objects {
		if k.Kind != kind {
			continue
		}
		if err := visit(k, h.version); err != nil {
			return err
		}
	}
	return nil
}

// NodeUID is the uid of the Node that the edge holds, or empty.
func (s *store) NodeUID(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[object.Key{Kind: object.Nodes, Name: s.node}].version.UID, nil
}

// ApplyBatch commits the items, and queues what a kubelet would say to them.
func (s *store) ApplyBatch(_ context.Context, items []link.Incoming) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, in := range items {
		if in.Bad != nil {
			return in.Bad // the real store passes over it; here it is a fault to be seen
		}
		if in.Cause != 0 {
			delete(s.objects, in.Key)
			s.kubelet.gone(in.Key)
			continue
		}
		h, known := s.objects[in.Key]
		if !known || h.version.UID != in.Version.UID {
			h.first = now
		}
		h.version, h.at = in.Version, now
		s.objects[in.Key] = h
		writes, err := s.kubelet.took(in.Key, in.Version.UID, in.Body)
		if err != nil {
			return err
		}
		s.put(writes...)
	}
	return nil
}

// put queues writes, each in the place of an older one. Called with mu held.
func (s *store) put(writes ...object.Outgoing) {
	for _, w := range writes {
		at := slot{w.Key, w.Op, w.UID}
		if old, waits := s.slots[at]; waits {
			delete(s.queue, old)
			s.reader.leaves(old)
		}
		s.next++
		w.ID, w.Created = s.next, time.Now()
		s.queue[w.ID], s.slots[at] = w, w.ID
		s.reader.enters(w)
	}
}

func (s *store) Load(_ context.Context, id uint64) (object.Outgoing, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.queue[id]
	return w, ok, nil
}

func (s *store) Drop(_ context.Context, id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.queue[id]; ok {
		delete(s.queue, id)
		delete(s.slots, slot{w.Key, w.Op, w.UID})
	}
	return nil
}

func (s *store) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Outbox begins a reader with all that waits.
func (s *store) Outbox(context.Context) (link.Outbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reader = &outbox{store: s, more: make(chan struct{}, 1)}
	for _, w := range s.queue {
		s.reader.enters(w)
	}
	return s.reader, nil
}

// outbox is a session's reader of the queue. Its fields belong to store.mu.
type outbox struct {
	store *store
	more  chan struct{}
	added []session.Head
	gone  []uint64
}

func (o *outbox) enters(w object.Outgoing) {
	if o == nil {
		return
	}
	o.added = append(o.added, session.Head{ID: w.ID, Key: w.Key, Priority: w.Priority})
	o.signal()
}

func (o *outbox) leaves(id uint64) {
	if o == nil {
		return
	}
	o.gone = append(o.gone, id)
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.more <- struct{}{}:
	default:
	}
}

func (o *outbox) C() <-chan struct{} { return o.more }

func (o *outbox) Take(context.Context) (added []session.Head, gone []uint64, err error) {
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	added, gone, o.added, o.gone = o.added, o.gone, nil, nil
	return added, gone, nil
}

// Close forgets the reader, unless a newer session has one.
func (o *outbox) Close() {
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	if o.store.reader == o {
		o.store.reader = nil
	}
}

// A Question is for the objects of one key, or, with an empty Name, of one kind in one namespace whose names begin with
// Prefix.
type Question struct {
	Kind      object.ID `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Prefix    string    `json:"prefix"`
	// Revision is the least resourceVersion that counts; 0 asks for the first commit of the object.
	Revision uint64 `json:"revision"`
}

// commit is when the edge committed what the question is for; zero if it has not.
func (s *store) commit(q Question) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Name != "" {
		return s.objects[object.Key{Kind: q.Kind, Namespace: q.Namespace, Name: q.Name}].answer(q)
	}
	for k, h := range s.objects {
		if k.Kind == q.Kind && k.Namespace == q.Namespace && strings.HasPrefix(k.Name, q.Prefix) {
			if at := h.answer(q); !at.IsZero() {
				return at
			}
		}
	}
	return time.Time{}
}

func (h held) answer(q Question) time.Time {
	switch {
	case q.Revision == 0:
		return h.first
	case h.version.RV >= q.Revision:
		return h.at
	}
	return time.Time{}
}
