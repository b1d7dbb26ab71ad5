package hub

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/wire"
)

// movedOnce is how long an edge that was sent away stays if it comes back: it knows no other CloudCore, or prefers this one.
const movedOnce = time.Hour

// Move sends up to n edges away, chosen at random, one by one over about that time, to connect to another CloudCore. It takes none with
// streams open, which would end, and none that it has sent away within the last hour. It returns how many those were, when that is done
// or ctx is. It is not called twice at a time.
func (h *Hub) Move(ctx context.Context, n int, over time.Duration) (sent int) {
	all := h.unmoved()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, c := range all {
		if sent == n {
			break
		}
		if !c.movable() || !h.noteMove(c) {
			continue
		}
		if !c.tunnel.endUnused() { // a stream was opened just now
			h.forgetMove(c)
			continue
		}
		sent++
		h.metrics.moved.Inc()
		c.end(wire.Reason_REASON_DRAIN, "another CloudCore has fewer edges")
		select {
		case <-time.After(over / time.Duration(n)):
		case <-ctx.Done():
			return sent
		}
	}
	return sent
}

// unmoved are the sessions of edges that were not sent away before.
func (h *Hub) unmoved() (all []*conn) {
	now := h.deps.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for node, at := range h.moved {
		if now.Sub(at) >= movedOnce {
			delete(h.moved, node)
		}
	}
	for node, c := range h.sessions {
		if _, sent := h.moved[node]; !sent {
			all = append(all, c)
		}
	}
	return all
}

// noteMove reports whether a session is still its node's, and then notes that the edge is sent away.
func (h *Hub) noteMove(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || h.sessions[c.node] != c {
		return false
	}
	h.moved[c.node] = h.deps.Now()
	return true
}

func (h *Hub) forgetMove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.moved, c.node)
}

// movable reports whether nothing but the sync would end with the session.
func (c *conn) movable() bool {
	c.mu.Lock()
	welcomed := c.welcomed
	c.mu.Unlock()
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	return welcomed && c.tunnel.streams == 0
}
