package store

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// What a feed keeps of one kind. A watcher that falls further behind is closed and lists again.
const (
	feedEvents = 1024
	feedBytes  = 512 << 10
)

// A feed holds the recent events of one kind. Watchers follow it at their own pace, so that a slow one costs nothing.
type feed struct {
	// mu guards the fields below.
	mu sync.Mutex
	// events are in order of local resourceVersion; all that happened after floor are there.
	events []object.Event
	floor  uint64
	bytes  int
	// wake is closed and replaced when events come.
	wake chan struct{}
}

func newFeed(floor uint64) *feed { return &feed{floor: floor, wake: make(chan struct{})} }

func eventSize(e object.Event) int {
	n := 128
	for _, r := range []*object.Record{e.Record, e.Previous} {
		if r != nil {
			n += len(r.Body) + len(r.Base) + len(r.Overlay)
		}
	}
	return n
}

func (f *feed) append(events []object.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		f.bytes += eventSize(e)
	}
	f.events = append(f.events, events...)
	cut := 0
	for cut < len(f.events) && (len(f.events)-cut > feedEvents || f.bytes > feedBytes) {
		f.bytes -= eventSize(f.events[cut])
		f.floor = f.events[cut].Record.LocalRV
		cut++
	}
	if cut > 0 {
		// A copy, so that the events cut off can be freed.
		f.events = append([]object.Event(nil), f.events[cut:]...)
	}
	close(f.wake)
	f.wake = make(chan struct{})
}

// after returns the events above rv, at most max, and the channel to wait on if there are none. ok is false if some are
// no longer kept.
func (f *feed) after(rv uint64, max int) (events []object.Event, wake <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rv < f.floor {
		return nil, nil, false
	}
	i := sort.Search(len(f.events), func(i int) bool { return f.events[i].Record.LocalRV > rv })
	return f.events[i:min(len(f.events), i+max):len(f.events)], f.wake, true
}

// feed returns the feed of a kind.
func (s *Store) feed(kind object.ID) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.feeds[kind]
	if f == nil {
		f = newFeed(s.startRV)
		s.feeds[kind] = f
	}
	return f
}

// Watch returns the changes of a kind with a local resourceVersion above since, in order and without gaps, as they are
// committed. Records must not be changed. The channel is closed when ctx ends, when the store stops, or when the reader
// fell too far behind: it lists again then.
//
// A uid change under one name is a Deleted and an Added event. The error is object.ErrExpired if changes since then are
// no longer kept, as after a restart, or if the store never gave out that version.
func (s *Store) Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error) {
	f := s.feed(kind)
	if limit := s.rvLimit.Load(); since > limit {
		return nil, fmt.Errorf("watch %s since %d, which is above %d: %w", kind, since, limit, object.ErrExpired)
	}
	if _, _, ok := f.after(since, 1); !ok {
		return nil, fmt.Errorf("watch %s since %d: %w", kind, since, object.ErrExpired)
	}
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return nil, fmt.Errorf("watch %s: %w", kind, ErrClosed)
	}
	s.watchers.Add(1)
	s.mu.Unlock()
	out := make(chan object.Event, 16)
	s.metrics.watchers.Inc()
	go func() {
		defer s.watchers.Done()
		defer s.metrics.watchers.Dec()
		defer close(out)
		s.follow(ctx, f, since, out)
	}()
	return out, nil
}

func (s *Store) follow(ctx context.Context, f *feed, since uint64, out chan<- object.Event) {
	for {
		events, wake, ok := f.after(since, 16)
		if !ok {
			s.metrics.slow.Inc()
			return
		}
		for _, e := range events {
			select {
			case out <- e:
				since = e.Record.LocalRV
			case <-ctx.Done():
				return
			case <-s.stopped:
				return
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		case <-s.stopped:
			return
		}
	}
}

// publish makes the effects of a committed transaction visible. The caller holds snapshots.
func (s *Store) publish(t *tx) {
	s.committed = t.next - 1
	byKind := map[object.ID][]object.Event{}
	for _, e := range t.events {
		k := e.Record.Key.Kind
		byKind[k] = append(byKind[k], e)
	}
	for kind, events := range byKind {
		s.feed(kind).append(events)
	}
	for _, l := range t.losses {
		s.countLoss(l)
	}
	s.metrics.moved(&t.moved)
	t.gone = append(t.gone, s.remade.change(t.remade, t.answered)...)
	t.used[object.ClassState] += s.remade.size()
	for class, n := range t.used {
		s.metrics.outbox.WithLabelValues(className(object.Class(class))).Set(float64(n))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(t.synced) > 0 {
		s.markSynced(t.synced)
		s.noteWhole(t.synced)
	}
	if t.effects.epoch != nil {
		s.epoch = *t.effects.epoch
	}
	if t.changed || len(t.synced) > 0 {
		s.changes++
	}
	if len(t.heads)+len(t.gone) == 0 {
		return
	}
	for o := range s.outboxes {
		o.notify(t.heads, t.gone)
	}
}
