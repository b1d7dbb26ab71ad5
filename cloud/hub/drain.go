package hub

import (
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/wire"
)

// The edges of a hub that shuts down come back one by one, drainEach after each other on average, the first after
// drainFirst: to other replicas, which have handshakes to make for each, or to this one. A few come at once. A Lease that lasts 40 s may
// be 20 s old at the goodbye, and is claimed up to 12 s after the edge is back.
const (
	drainFirst = time.Second
	drainLeast = 2 * time.Second
	drainEach  = 2 * time.Millisecond
	drainMost  = 8 * time.Second
)

// drainWithin is the time in which that many edges come back.
func drainWithin(sessions int) time.Duration {
	return min(max(drainLeast, drainFirst+time.Duration(sessions)*drainEach), drainMost)
}

// drain says goodbye to all edges, and lets no further ones in.
func (h *Hub) drain() {
	h.mu.Lock()
	h.draining, h.within = true, drainWithin(len(h.sessions))
	var all []*conn
	for _, c := range h.sessions {
		all = append(all, c)
	}
	h.mu.Unlock()
	for _, c := range all {
		c.end(wire.Reason_REASON_DRAIN, "the hub shuts down")
	}
}

// afterDrain is when one of the edges is to come back.
func (h *Hub) afterDrain() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return drainFirst + rand.N(max(h.within, drainLeast)-drainFirst+1)
}

// comeBack is when an edge whose session ends for that reason is to come back; 0 leaves that to the edge.
func (h *Hub) comeBack(r wire.Reason) time.Duration {
	if r == wire.Reason_REASON_DRAIN {
		return h.afterDrain()
	}
	return 0
}
