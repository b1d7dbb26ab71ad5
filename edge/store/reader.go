package store

import (
	"context"
	"sync"
)

// outboxBacklog bounds what an Outbox remembers between two Takes. A reader that falls further behind makes Take read
// the queue anew.
const outboxBacklog = 1024

// An Outbox tells one reader what enters and leaves the queue of writes. It never holds up the writer. It is not safe
// for concurrent use, and must be closed.
type Outbox struct {
	s     *Store
	c     chan struct{}
	known map[uint64]struct{} // ids that the reader was told of and that have not left

	// mu guards the fields below.
	mu    sync.Mutex
	added []Head
	gone  []uint64
	// missed: added and gone are not all that happened. So it is before the first Take.
	missed bool
}

// Outbox opens a reader of the queue.
func (s *Store) Outbox() *Outbox {
	o := &Outbox{s: s, c: make(chan struct{}, 1), known: map[uint64]struct{}{}, missed: true}
	o.c <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outboxes[o] = struct{}{}
	return o
}

// C is sent to when there is something to Take.
func (o *Outbox) C() <-chan struct{} { return o.c }

// Take returns what entered the queue and what left it (delivered, replaced, expired or dropped) since the last Take;
// the first returns the whole queue, highest priority first. An id is reported as added once and as gone once, and not
// at all if it came and went in between.
func (o *Outbox) Take(ctx context.Context) (added []Head, gone []uint64, err error) {
	o.mu.Lock()
	heads, left, missed := o.added, o.gone, o.missed
	o.added, o.gone, o.missed = nil, nil, false
	o.mu.Unlock()
	if missed {
		if added, gone, err = o.reread(ctx); err != nil {
			o.mu.Lock()
			o.added, o.gone, o.missed = nil, nil, true
			o.mu.Unlock()
		}
		return added, gone, err
	}
	out := map[uint64]struct{}{}
	for _, id := range left {
		out[id] = struct{}{}
		if _, ok := o.known[id]; ok {
			delete(o.known, id)
			gone = append(gone, id)
		}
	}
	for _, h := range heads {
		if _, left := out[h.ID]; left {
			continue
		}
		if _, told := o.known[h.ID]; told { // by a reread that ran after its commit
			continue
		}
		o.known[h.ID] = struct{}{}
		added = append(added, h)
	}
	return added, gone, nil
}

// reread compares the queue with what the reader knows.
func (o *Outbox) reread(ctx context.Context) (added []Head, gone []uint64, err error) {
	now := map[uint64]struct{}{}
	if err := o.s.Queue(ctx, func(h Head) error {
		now[h.ID] = struct{}{}
		if _, ok := o.known[h.ID]; !ok {
			added = append(added, h)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	for id := range o.known {
		if _, ok := now[id]; !ok {
			gone = append(gone, id)
		}
	}
	o.known = now
	return added, gone, nil
}

// Close ends the reader. C is not closed.
func (o *Outbox) Close() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	delete(o.s.outboxes, o)
}

// notify adds the outcome of one transaction.
func (o *Outbox) notify(added []Head, gone []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.missed:
	case len(o.added)+len(o.gone)+len(added)+len(gone) > outboxBacklog:
		o.added, o.gone, o.missed = nil, nil, true
	default:
		o.added, o.gone = append(o.added, added...), append(o.gone, gone...)
	}
	select {
	case o.c <- struct{}{}:
	default:
	}
}
