package store

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// remadeBit tells the ids of writes that wait in memory from those that the database gives. The rest of such an id is a local
// resourceVersion, so that it never repeats, not even after a restart.
const remadeBit = 1 << 62

// remade holds the queued writes that are made again after a restart: the status of a device, of which every value is a note. A
// write that comes and goes within a second would cost the flash more than the value in it. As on the disk, one waits per object
// incarnation and operation, so there are no more of them than devices.
type remade struct {
	// mu guards the fields below, which change when a transaction is published.
	mu     sync.Mutex
	writes map[uint64]*object.Outgoing
	newest map[remadeKey]uint64
	bytes  int64
}

// remadeKey is what supersedes.
type remadeKey struct {
	key object.Key
	uid string
	op  object.Op
}

func keyOfRemade(o *object.Outgoing) remadeKey { return remadeKey{o.Key, o.UID, o.Op} }

// queueRemade queues o in memory when the transaction is published. One that waits on the disk, where a former version of edgecore
// put it, gives way.
func (t *tx) queueRemade(o object.Outgoing) error {
	if err := t.supersede(&o); err != nil {
		return err
	}
	rv, err := t.rv()
	if err != nil {
		return err
	}
	o.ID = remadeBit | rv
	t.remade = append(t.remade, o)
	t.heads = append(t.heads, headOf(&o))
	return nil
}

func headOf(o *object.Outgoing) Head {
	return Head{ID: o.ID, Key: o.Key, UID: o.UID, Op: o.Op, Class: o.Class, Priority: o.Priority, Size: outgoingSize(o), Expires: o.Expires}
}

// change takes in what a transaction queued and takes out what was answered. gone are the ids that left.
func (m *remade) change(queued []object.Outgoing, answered []uint64) (gone []uint64) {
	if len(queued)+len(answered) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writes == nil {
		m.writes, m.newest = map[uint64]*object.Outgoing{}, map[remadeKey]uint64{}
	}
	take := func(id uint64) {
		o := m.writes[id]
		if o == nil {
			return
		}
		delete(m.writes, id)
		m.bytes -= outgoingSize(o)
		if k := keyOfRemade(o); m.newest[k] == id {
			delete(m.newest, k)
		}
		gone = append(gone, id)
	}
	for i := range queued {
		o := &queued[i]
		take(m.newest[keyOfRemade(o)])
		m.writes[o.ID], m.newest[keyOfRemade(o)] = o, o.ID
		m.bytes += outgoingSize(o)
	}
	for _, id := range answered {
		take(id)
	}
	return gone
}

func (m *remade) load(id uint64) (object.Outgoing, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.writes[id]; o != nil {
		return *o, true
	}
	return object.Outgoing{}, false
}

// size is what they count together, in bytes.
func (m *remade) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// heads are of all, highest priority first and oldest first within one.
func (m *remade) heads() []Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Head, 0, len(m.writes))
	for o := range maps.Values(m.writes) {
		out = append(out, headOf(o))
	}
	slices.SortFunc(out, func(a, b Head) int { return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ID, b.ID)) })
	return out
}

// between calls visit with the heads in memory and with those that rows visits, the highest priority first.
func (m *remade) between(visit func(Head) error, rows func(visit func(Head) error) error) error {
	mine := m.heads()
	above := func(priority int) error {
		for len(mine) > 0 && mine[0].Priority > priority {
			h := mine[0]
			mine = mine[1:]
			if err := visit(h); err != nil {
				return err
			}
		}
		return nil
	}
	if err := rows(func(h Head) error {
		if err := above(h.Priority); err != nil {
			return err
		}
		return visit(h)
	}); err != nil {
		return err
	}
	for _, h := range mine {
		if err := visit(h); err != nil {
			return err
		}
	}
	return nil
}

// addTo adds them to what waits on the disk.
func (m *remade) addTo(list []Waiting) []Waiting {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.writes) == 0 {
		return list
	}
	name := className(object.ClassState)
	i := slices.IndexFunc(list, func(w Waiting) bool { return w.Class == name })
	if i < 0 {
		i, list = 0, slices.Insert(list, 0, Waiting{Class: name}) // state is the first class
	}
	w := &list[i]
	w.Count, w.Bytes = w.Count+int64(len(m.writes)), w.Bytes+m.bytes
	for _, o := range m.writes {
		if w.Oldest.IsZero() || o.Created.Before(w.Oldest) {
			w.Oldest = o.Created
		}
	}
	return list
}
