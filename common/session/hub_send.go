package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// itemOverhead is what an item adds to its body on the wire, at most, apart from its names.
const itemOverhead = 64

// Poll returns what can be sent now, and when to call again at the latest. The caller calls it after every event and
// once it has room for another frame: at most one batch comes out of a call, so a slow edge costs no memory.
func (h *Hub) Poll(now time.Time) (effects []Effect, next time.Time) {
	next = h.lastReceived.Add(3*h.pingInterval + time.Second)
	if !now.Before(next) {
		return []Effect{Close{Reason: wire.Reason_REASON_UNSPECIFIED, Message: fmt.Sprintf("nothing was received for %s: three pings were missed", now.Sub(h.lastReceived).Round(time.Second))}}, now.Add(time.Hour)
	}
	if h.version == 0 {
		return nil, next
	}
	h.wake(now)
	if at := h.gathered(); at.After(now) {
		next = earlier(next, at)
	} else if b := h.batch(now); b != nil {
		effects = append(effects, Send{&wire.Frame{Body: &wire.Frame_Batch{Batch: b}}})
		if h.inFlight < h.cfg.Window && h.ready() > 0 && !h.removalsWait() {
			next = now
		}
	}
	if s := h.settle(); s != nil {
		effects = append(effects, Send{&wire.Frame{Body: &wire.Frame_Synced{Synced: s}}})
	}
	if len(h.behind) > 0 {
		if !now.Before(h.checked.Add(h.cfg.RecheckBehind)) {
			h.checked = now
			effects = append(effects, CheckRevision{})
		}
		next = earlier(next, now.Add(50*time.Millisecond))
	}
	if len(h.later) > 0 {
		next = earlier(next, h.later[0].at)
	}
	return effects, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// gatherMax is how many ready keys are worth a batch of their own at once.
const gatherMax = 64

// gathered is when the next batch may be made, zero if at once. A burst of small changes over many keys would else cost
// a frame, a commit and an acknowledgement for each. A pod does not wait, nor does the first sync.
func (h *Hub) gathered() time.Time {
	if n := h.ready(); n == 0 || n >= gatherMax || h.queues[podRank].len() > 0 || !h.announced {
		return time.Time{}
	}
	return h.batched.Add(h.cfg.Gather)
}

// wake queues the keys whose coalescing time is over and those whose cache has caught up with the edge.
func (h *Hub) wake(now time.Time) {
	for {
		k, ok := h.later.due(now)
		if !ok {
			break
		}
		e := h.entries[k]
		if e == nil || e.phase != delayed {
			continue
		}
		if due := h.due(e); due.After(now) {
			h.later.add(k, due)
			continue
		}
		h.enqueue(k, e)
	}
	for _, k := range slices.SortedFunc(mapKeys(h.behind), object.Key.Compare) {
		if e := h.entries[k]; h.view.Revision(k.Kind) >= e.sent.RV {
			h.enqueue(k, e)
		}
	}
}

// ready counts the keys that wait for room.
func (h *Hub) ready() int {
	n := h.removals.len()
	for i := range h.queues {
		n += h.queues[i].len()
	}
	return n
}

// removalsWait reports that only removals are ready and that they must wait for a cache.
func (h *Hub) removalsWait() bool { return h.drained(ranks) && len(h.behind) > 0 }

// drained reports that no key below that rank waits.
func (h *Hub) drained(rank int) bool {
	for i := range rank {
		if h.queues[i].len() > 0 {
			return false
		}
	}
	return true
}

// batch fills one batch from the ready keys, nil if there is nothing to send or no room in flight. The order inside is
// the promise: pods that go, then what pods need, then pods, then what nothing needs any more.
func (h *Hub) batch(now time.Time) *wire.Batch {
	if h.inFlight >= h.cfg.Window || h.ready() == 0 {
		return nil
	}
	b := &wire.Batch{}
	size := 0
	full := func() bool { return size >= h.cfg.BatchBytes || h.inFlight+size >= h.cfg.Window }
	h.podsThatGo(now, b, &size)
	for rank := 0; rank < podRank && !full(); rank++ {
		for h.queues[rank].len() > 0 && !full() {
			k := h.queues[rank].pop()
			if !h.visible(k) {
				h.setAside(k)
				continue
			}
			h.take(now, k, b, &size)
		}
	}
	for h.queues[podRank].len() > 0 && !full() && h.drained(podRank) {
		h.take(now, h.queues[podRank].pop(), b, &size)
	}
	// While a pod's cache is behind, what it refers to only looks unused.
	for h.removals.len() > 0 && !full() && h.drained(ranks) && len(h.behind) == 0 {
		k := h.removals.pop()
		e := h.entries[k]
		if e == nil {
			continue
		}
		e.inRemovals = false
		if e.phase == leaving {
			h.take(now, k, b, &size)
		}
	}
	if len(b.Items) == 0 {
		return nil
	}
	h.seq++
	if h.batched = now; h.ready() > 0 {
		h.batched = time.Time{} // what did not fit has waited
	}
	b.Seq = h.seq
	h.inFlight += size
	h.flights = append(h.flights, flight{h.seq, size})
	return b
}

// setAside lets a key that is no longer visible wait until nothing can need it.
func (h *Hub) setAside(k object.Key) {
	e := h.entries[k]
	e.phase = leaving
	if !e.inRemovals {
		e.inRemovals = true
		h.removals.push(k)
	}
}

func (h *Hub) podsThatGo(now time.Time, b *wire.Batch, size *int) {
	q := &h.queues[podRank]
	for n := q.len(); n > 0; n-- {
		k := q.pop()
		if h.visible(k) {
			q.push(k)
			continue
		}
		h.take(now, k, b, size)
	}
}

// take puts the current state of a ready key into the batch, if the edge lacks it.
func (h *Hub) take(now time.Time, k object.Key, b *wire.Batch, size *int) {
	e := h.entries[k]
	e.phase = clean
	// Before the object: a cache that catches up in between must not make an older one look like the newest.
	seen := h.view.Revision(k.Kind)
	item, visible := h.view.Get(k)
	if !visible && h.view.Pending(k) {
		return // Changed will name it again
	}
	if (!visible || item.Version.RV < e.sent.RV) && seen < e.sent.RV {
		// The edge has seen more than this cache: nothing may be sent or deleted on such ground.
		e.phase = behind
		h.behind[k] = now
		return
	}
	if !visible {
		if e.sent.RV > 0 {
			cause := h.view.Cause(k, e.sent.UID, h.heldNodeUID)
			if cause == 0 {
				return // it became visible between the two looks; Changed will name it again
			}
			b.Items = append(b.Items, h.compacted(&wire.Item{Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name,
				Uid: e.sent.UID, ResourceVersion: e.sent.RV, Cause: wire.Cause(cause)}))
			*size += len(k.Name) + len(k.Namespace) + itemOverhead
		}
		delete(h.entries, k)
		return
	}
	if item.Version == e.sent {
		return
	}
	how := wire.Compression_COMPRESSION_NONE
	if item.Compressed {
		how = wire.Compression_COMPRESSION_ZSTD
	}
	b.Items = append(b.Items, h.compacted(&wire.Item{Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name,
		Uid: item.Version.UID, ResourceVersion: item.Version.RV, Body: item.Body, Compression: how}))
	*size += len(item.Body) + len(k.Name) + len(k.Namespace) + itemOverhead
	e.sent, e.at = item.Version, now
}

// settle returns the Synced frame once, when all that differed at the start has been put on the stream. From then on
// the edge's pods belong to the Node that the cluster has.
func (h *Hub) settle() *wire.Synced {
	if len(h.awaiting) > 0 || h.ready() > 0 || len(h.behind) > 0 {
		return nil
	}
	if uid := h.view.NodeUID(); uid != "" {
		h.heldNodeUID = uid
	}
	if h.announced {
		return nil
	}
	h.announced = true
	s := &wire.Synced{Seq: h.seq, Restored: h.restored}
	for _, id := range h.kinds {
		s.Kinds = append(s.Kinds, string(id))
	}
	slices.Sort(s.Kinds)
	return s
}
