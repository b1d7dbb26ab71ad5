package link

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/wire"
)

// peers connects bare edges, by their names.
func (w *world) peers(n int) map[string]*raw {
	w.t.Helper()
	all := map[string]*raw{}
	for i := range n {
		node := fmt.Sprintf("edge-%d", i)
		all[node] = w.raw(node)
		all[node].hello(node)
	}
	for node := range all {
		eventually(w.t, node+" has a session", func() bool { return w.nodes.session(node) != "" })
	}
	return all
}

// sent waits until the hub has sent n of the peers away, and takes those out of all.
func (w *world) sent(all map[string]*raw, n int) (nodes []string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d of %d are gone", n, len(all)), func() bool {
		nodes = nil
		for node := range all {
			if w.nodes.session(node) == "" {
				nodes = append(nodes, node)
			}
		}
		return len(nodes) == n
	})
	for _, node := range nodes {
		if g := all[node].goodbye(); g.Reason != wire.Reason_REASON_DRAIN || g.ComeBackMs < 1000 || g.ComeBackMs > 2000 || !strings.Contains(g.Message, "fewer") {
			w.t.Errorf("%s got %v, want REASON_DRAIN, the reason, and to come back in 1 to 2 s", node, g)
		}
		delete(all, node)
	}
	return nodes
}

func TestEdgesAreSentToAnotherHubOnceAndNotWithStreamsOpen(t *testing.T) {
	w := newWorld(t, nil)
	busy := w.join("busy", edgeConfig{tunnel: echo})
	eventually(t, "the busy edge is up", busy.up)
	stream := w.open("busy")
	all := w.peers(6)
	w.hub.Move(t.Context(), 4, time.Millisecond)
	first := w.sent(all, 4)
	w.hub.Move(t.Context(), 100, time.Millisecond)
	w.sent(all, 2)
	exchange(t, stream, 1000)
	// Two come back: they know no other hub.
	for _, node := range first[:2] {
		all[node] = w.raw(node)
		all[node].hello(node)
		eventually(t, node+" is back", func() bool { return w.nodes.session(node) != "" })
	}
	if n := w.hub.Move(t.Context(), 100, time.Millisecond); n != 0 {
		t.Errorf("%d edges were sent away, of one that has a stream open and two that were sent before", n)
	}
	exchange(t, stream, 1000)
}

// The edge takes what it is told to heart: of two hubs it goes to the other one.
func TestAnEdgeThatIsSentAwayGoesToTheOtherHub(t *testing.T) {
	from, to := newWorld(t, nil), newWorld(t, nil)
	to.trust, to.ca, to.server = from.trust, from.ca, from.server
	to.stop()
	to.restart()
	for i := range 8 {
		e := from.join(fmt.Sprintf("edge-%d", i), edgeConfig{further: to.addr})
		eventually(t, "up", e.up)
	}
	here := len(from.nodes.connected())
	from.hub.Move(t.Context(), here, time.Millisecond)
	eventually(t, "all are at the other hub", func() bool { return len(to.nodes.connected()) == 8 })
}

// Of two hubs one is full: whoever asks that one first goes to the other at once, not when the full one wants to be asked again.
func TestAnEdgeGoesFromAFullHubToOneThatHasRoom(t *testing.T) {
	full, to := newWorld(t, func(c *hub.Config) { c.MaxSessions = 1 }), newWorld(t, nil)
	to.trust, to.ca, to.server = full.trust, full.ca, full.server
	to.stop()
	to.restart()
	full.peers(1)
	var edges []*edge
	for i := range 12 {
		edges = append(edges, full.join(fmt.Sprintf("later-%d", i), edgeConfig{further: to.addr}))
	}
	within(t, 10*time.Second, "all to be at the hub that has room", func() bool { return len(to.nodes.connected()) == len(edges) })
	refused := 0.0
	for _, e := range edges {
		refused += attempts(t, e) - 1
	}
	if refused == 0 {
		t.Error("nobody asked the full one first: that tells nothing")
	}
}
