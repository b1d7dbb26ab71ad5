package kubeapi

import (
	"context"
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// memory holds rows that need not survive a restart (leases, recent events), with the reading side of Store. Its
// history is bounded: a watcher that falls behind it ends.
type memory struct {
	capacity int // rows; the oldest go first. 0 is no bound.

	// mu guards the fields below.
	mu   sync.Mutex
	rv   uint64
	rows map[object.Key]*object.Record
	// log holds the changes with a LocalRV above floor, oldest first.
	log   []object.Event
	floor uint64
	// changed is closed and replaced at each change.
	changed chan struct{}
}

// historySize is how many changes a memory keeps for its watchers.
const historySize = 512

func newMemory(start uint64, capacity int) *memory {
	return &memory{
		capacity: capacity, rv: start, floor: start, rows: map[object.Key]*object.Record{}, changed: make(chan struct{}),
	}
}

func (m *memory) Get(_ context.Context, key object.Key) (*object.Record, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, ok := m.rows[key]
	return rec, ok, nil
}

func (m *memory) List(_ context.Context, kind object.ID, namespace string) ([]*object.Record, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*object.Record
	for k, rec := range m.rows {
		if k.Kind == kind && (namespace == "" || k.Namespace == namespace) {
			out = append(out, rec)
		}
	}
	slices.SortFunc(out, func(a, b *object.Record) int { return a.Key.Compare(b.Key) })
	return out, m.rv, nil
}

// Apply makes a change; what is outgoing in it is the caller's.
func (m *memory) Apply(_ context.Context, c object.Change) (*object.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := c.Record.Key
	old := m.rows[key]
	if (old == nil && c.Expect != 0) || (old != nil && old.LocalRV != c.Expect) {
		return nil, object.ErrConflict
	}
	if c.Remove {
		m.remove(old)
		return nil, nil
	}
	rec := *c.Record
	m.rv++
	rec.LocalRV = m.rv
	m.rows[key] = &rec
	e := object.Event{Type: object.Added, Record: &rec}
	if old != nil {
		e = object.Event{Type: object.Modified, Record: &rec, Previous: old}
	}
	m.note(e)
	if m.capacity > 0 && len(m.rows) > m.capacity {
		m.remove(m.oldest())
	}
	return &rec, nil
}

// remove drops a row. The caller holds mu.
func (m *memory) remove(old *object.Record) {
	if old == nil {
		return
	}
	delete(m.rows, old.Key)
	m.rv++
	gone := *old
	gone.LocalRV = m.rv
	m.note(object.Event{Type: object.Deleted, Record: &gone, Previous: old})
}

// oldest returns the row that changed longest ago. The caller holds mu.
func (m *memory) oldest() *object.Record {
	var out *object.Record
	for _, rec := range m.rows {
		if out == nil || rec.LocalRV < out.LocalRV {
			out = rec
		}
	}
	return out
}

// note appends to the history and wakes the watchers. The caller holds mu.
func (m *memory) note(e object.Event) {
	if len(m.log) == historySize {
		m.floor = m.log[0].Record.LocalRV
		m.log = append(m.log[:0:0], m.log[1:]...)
	}
	m.log = append(m.log, e)
	close(m.changed)
	m.changed = make(chan struct{})
}

// after returns the events above rv, and what closes at the next change. ok is false if some are no longer kept.
func (m *memory) after(rv uint64) (events []object.Event, changed <-chan struct{}, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rv < m.floor || rv > m.rv {
		return nil, nil, false
	}
	i, _ := slices.BinarySearchFunc(m.log, rv, func(e object.Event, rv uint64) int {
		if e.Record.LocalRV <= rv {
			return -1
		}
		return 1
	})
	return slices.Clone(m.log[i:]), m.changed, true
}

func (m *memory) Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error) {
	if _, _, ok := m.after(since); !ok {
		return nil, object.ErrExpired
	}
	ch := make(chan object.Event, 16)
	go func() {
		defer close(ch)
		for {
			events, changed, ok := m.after(since)
			if !ok {
				return
			}
			for _, e := range events {
				since = e.Record.LocalRV
				if e.Record.Key.Kind != kind {
					continue
				}
				select {
				case ch <- e:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}
