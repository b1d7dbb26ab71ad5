package session

import (
	"container/heap"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// outbox orders an edge's writes: by priority, then age; one of a key at a time; a key whose write failed waits
// without holding up the others.
type outbox struct {
	cfg  EdgeConfig
	keys map[object.Key]*line
	byID map[uint64]*line
	// waiting holds the lines with a first write that may be sent now, best first.
	waiting lines
	// resting holds the keys that back off, with the time of their next try.
	resting timers
	// flights are the writes without an answer, by ID: whether they are of low priority, which low counts. One that was superseded
	// is among them until its answer has come: the cloud still works on it.
	flights map[uint64]bool
	low     int
}

// line is the queue of one key's writes.
type line struct {
	key      object.Key
	heads    []Head // by ID
	sending  uint64 // ID of the write without an answer, 0 if none
	failures int
	resting  bool
	index    int // in waiting, -1 if it is not there
}

func newOutbox(cfg EdgeConfig) outbox {
	return outbox{cfg: cfg, keys: map[object.Key]*line{}, byID: map[uint64]*line{}, flights: map[uint64]bool{}}
}

func (o *outbox) add(h Head) {
	if o.byID[h.ID] != nil {
		return
	}
	l := o.keys[h.Key]
	if l == nil {
		l = &line{key: h.Key, index: -1}
		o.keys[h.Key] = l
	}
	i := len(l.heads)
	for i > 0 && l.heads[i-1].ID > h.ID {
		i--
	}
	l.heads = slices.Insert(l.heads, i, h)
	o.byID[h.ID] = l
	o.arrange(l)
}

// arrange puts a line where it belongs after any change of it.
func (o *outbox) arrange(l *line) {
	want := len(l.heads) > 0 && l.sending == 0 && !l.resting
	switch {
	case want && l.index < 0:
		heap.Push(&o.waiting, l)
	case want:
		heap.Fix(&o.waiting, l.index)
	case l.index >= 0:
		heap.Remove(&o.waiting, l.index)
	}
	if len(l.heads) == 0 && l.sending == 0 && !l.resting {
		delete(o.keys, l.key)
	}
}

// take returns the writes to send now, and when a resting key is due; zero if none rests.
func (o *outbox) take(now time.Time) (ids []uint64, next time.Time) {
	for {
		k, ok := o.resting.due(now)
		if !ok {
			break
		}
		if l := o.keys[k]; l != nil {
			l.resting = false
			o.arrange(l)
		}
	}
	for len(o.flights) < o.cfg.WriteWindow && len(o.waiting) > 0 {
		l := o.waiting[0]
		// What waits for its turn in the cloud, as devices do, must leave room for what the node lives by. All others in the
		// heap are of no higher priority.
		low := l.heads[0].Priority < object.PriorityPod
		if low && o.low >= max(1, o.cfg.WriteWindow/2) {
			break
		}
		l.sending = l.heads[0].ID
		o.flights[l.sending] = low
		if low {
			o.low++
		}
		o.arrange(l)
		ids = append(ids, l.sending)
	}
	if len(o.resting) > 0 {
		next = o.resting[0].at
	}
	return ids, next
}

// remove takes an entry out, answered or not. A write of it that is under way keeps its place in the window.
func (o *outbox) remove(id uint64) {
	l := o.byID[id]
	if l == nil {
		return
	}
	delete(o.byID, id)
	l.heads = slices.DeleteFunc(l.heads, func(h Head) bool { return h.ID == id })
	if l.sending == id {
		l.sending = 0
	}
	o.arrange(l)
}

// land frees the place of a write that has its answer, or was never sent.
func (o *outbox) land(id uint64) {
	if o.flights[id] {
		o.low--
	}
	delete(o.flights, id)
}

func (o *outbox) result(now time.Time, r *wire.Result) []Effect {
	o.land(r.Id)
	l := o.byID[r.Id]
	if l == nil || l.sending != r.Id {
		return nil // superseded meanwhile: the entry that took its place has an answer of its own to come
	}
	if r.Final {
		l.failures = 0
		o.remove(r.Id)
		return []Effect{DropWrite{Key: l.key, Result: r}}
	}
	l.sending = 0
	l.failures++
	wait := min(o.cfg.RetryMin<<min(l.failures-1, 16), o.cfg.RetryMax)
	wait = wait/2 + time.Duration(o.cfg.Rand()*float64(wait/2))
	wait = max(wait, bounded(r.RetryAfterMs, o.cfg.RetryMax))
	l.resting = true
	o.resting.add(l.key, now.Add(wait))
	o.arrange(l)
	return []Effect{WriteFailed{Key: l.key, Result: r, Failures: l.failures, Again: wait}}
}

// lines is a heap of lines by the priority and age of their first write.
type lines []*line

func (q lines) Len() int { return len(q) }
func (q lines) Less(i, j int) bool {
	a, b := q[i].heads[0], q[j].heads[0]
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.ID < b.ID
}
func (q lines) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *lines) Push(x any) {
	l := x.(*line)
	l.index = len(*q)
	*q = append(*q, l)
}
func (q *lines) Pop() any {
	old := *q
	l := old[len(old)-1]
	old[len(old)-1] = nil
	l.index = -1
	*q = old[:len(old)-1]
	return l
}
