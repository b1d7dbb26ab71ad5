package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

func TestAnEdgeThatNeverReadsCostsItsWindowAndHoldsUpNobody(t *testing.T) {
	w := newWorld(t, nil)
	honest := w.join("honest", edgeConfig{})
	eventually(t, "the honest edge is up", honest.up)
	slow := w.raw("slow")
	slow.hello("slow")
	// It reads its Welcome and no more. Before that the hub might take the changes for what the inventory is to tell.
	for slow.next().GetWelcome() == nil {
	}
	const objects, size, rounds = 100, 10 << 10, 5
	var longest time.Duration
	for round := range rounds {
		for i := range objects {
			body := bytes.Repeat([]byte{byte('a' + round)}, size)
			longest = max(longest, w.caches.change(configMap(fmt.Sprint(i)), body))
		}
	}
	if longest > time.Second {
		t.Errorf("telling the sessions of one change took %s", longest)
	}
	eventually(t, "the honest edge holds the last state", func() bool {
		for i := range objects {
			if b := honest.store.get(configMap(fmt.Sprint(i))); len(b) != size || b[0] != 'a'+rounds-1 {
				return false
			}
		}
		return true
	})
	// What the hub has sent to who never acknowledged, out of 5 MB of changes: it stops at the window.
	got := 0
	for {
		_ = slow.SetReadDeadline(time.Now().Add(time.Second))
		f, err := wire.Read(slow, wire.MaxFrame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range f.GetBatch().GetItems() {
			got += len(it.Body)
		}
	}
	if limit := w.cfg.MaxInFlightBytes + size; got == 0 || got > limit {
		t.Errorf("%d bytes are on their way to an edge that acknowledges nothing, want at most %d", got, limit)
	}
}

func TestAnEdgeCannotStartAnyNumberOfRequests(t *testing.T) {
	w := newWorld(t, nil)
	var under, most atomic.Int64
	release := make(chan struct{})
	w.up.call = func(context.Context, string, *wire.Call) *wire.Reply {
		most.Store(max(most.Load(), under.Add(1)))
		<-release
		under.Add(-1)
		return &wire.Reply{Code: 200}
	}
	r := w.raw("greedy")
	r.hello("greedy")
	const n, limit = 500, 16
	for i := range n {
		r.send(&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: uint64(i + 1), Verb: "get", Kind: "pods", Name: "a"}}})
	}
	eventually(t, "calls are under way", func() bool { return under.Load() == limit })
	close(release)
	seen := map[uint64]bool{}
	for len(seen) < n {
		if a := r.next().GetReply(); a != nil {
			seen[a.Id] = true
		}
	}
	if most.Load() > limit {
		t.Errorf("%d requests were under way at once for one edge, want at most %d", most.Load(), limit)
	}
}

func TestAHalfOpenLinkIsNoticedWithinThreePingsByBothEnds(t *testing.T) {
	w := newWorld(t, nil)
	p := w.proxy()
	const ping = 500 * time.Millisecond
	e := w.join("edge-1", edgeConfig{addr: p.addr(), ping: ping})
	eventually(t, "up", e.up)
	start := time.Now()
	p.setSilent(true)
	limit := 4*ping + time.Second + 3*time.Second // one may just have passed; a second of grace; a busy machine
	within(t, limit, "the edge notices", func() bool { return !e.Status().Connected })
	within(t, limit, "the hub notices", func() bool { return w.nodes.session("edge-1") == "" })
	if took := time.Since(start); took < 2*ping {
		t.Errorf("the link was given up after %s, before three pings of %s were missed", took, ping)
	}
	w.caches.change(configMap("a"), []byte("meanwhile"))
	p.setSilent(false)
	p.cut()
	eventually(t, "the edge is back with what it missed", func() bool { return e.store.get(configMap("a")) == "meanwhile" })
}

func TestADrainSpreadsTheReturnOfItsEdges(t *testing.T) {
	w := newWorld(t, nil)
	const n = 20
	var raws []*raw
	for i := range n {
		r := w.raw(fmt.Sprintf("edge-%d", i))
		r.hello(fmt.Sprintf("edge-%d", i))
		raws = append(raws, r)
	}
	e := w.join("real", edgeConfig{})
	eventually(t, "the real edge is up", e.up)
	eventually(t, "all have a session", func() bool { return w.caches.subscribers() == n+1 })
	go w.stop() // it waits for the edges to hear it
	times := map[int64]bool{}
	for _, r := range raws {
		g := r.goodbye()
		if g.Reason != wire.Reason_REASON_DRAIN || g.ComeBackMs < 1000 || g.ComeBackMs > 2000 {
			t.Errorf("got %v, want REASON_DRAIN and to come back in 1 to 2 s", g)
		}
		times[g.ComeBackMs] = true
	}
	if len(times) < n/4 {
		t.Errorf("%d edges come back at %d different times: they are not spread", n, len(times))
	}
	w.stop()
	w.restart()
	within(t, 10*time.Second, "the real edge is back", e.up)
}

func TestALostServerIsTriedAgainWithinSeconds(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	e := w.join("edge-1", edgeConfig{})
	eventually(t, "the edge was refused by TCP more than once", func() bool { return attempts(t, e) >= 2 })
	w.restart()
	within(t, 6*time.Second, "the edge connects", e.up)
}

func TestAServerThatSaysNotNowIsNotHammered(t *testing.T) {
	w := newWorld(t, nil)
	w.caches.mu.Lock()
	w.caches.cold = true // the hub answers 503 with Retry-After: 1
	w.caches.mu.Unlock()
	e := w.join("edge-1", edgeConfig{})
	start := time.Now()
	eventually(t, "the edge has asked four times", func() bool { return attempts(t, e) >= 4 })
	if took := time.Since(start); took < 2500*time.Millisecond {
		t.Errorf("four attempts took %s: Retry-After: 1 wants at least three seconds", took)
	}
	if e.store.committed() > 0 || e.Status().Connected {
		t.Error("an edge was let in before the caches were synced (I8)")
	}
	w.caches.mu.Lock()
	w.caches.cold = false
	w.caches.mu.Unlock()
	within(t, 5*time.Second, "the edge connects once the hub is ready", e.up)
}

// Edges that come faster than the hub lets them in are told when to come, and come then: over either protocol, which tell it in ways of
// their own.
func TestEdgesThatComeTooFastAreToldWhenToComeAndAreLetInThen(t *testing.T) {
	const rate, edges = 2, 10
	w := newWorld(t, func(c *hub.Config) { c.ConnectRate = rate })
	began := time.Now()
	var all []*edge
	for i := range edges {
		all = append(all, w.join(fmt.Sprintf("edge-%d", i), edgeConfig{}))
	}
	for _, e := range all {
		eventually(t, "every edge is up", e.up)
	}
	// A second's worth goes at once, the rest at the rate.
	if took, least := time.Since(began), (edges/rate-3)*time.Second; took < least {
		t.Errorf("%d edges were let in within %s, at %d a second, want %s or more", edges, took, rate, least)
	}
}

func TestAFullHubTurnsEdgesAway(t *testing.T) {
	w := newWorld(t, func(c *hub.Config) { c.MaxSessions = 1 })
	first := w.join("edge-1", edgeConfig{})
	eventually(t, "up", first.up)
	second := w.join("edge-2", edgeConfig{})
	eventually(t, "the second was refused", func() bool { return strings.Contains(second.Status().Problem, "503") })
	if second.up() || !first.up() {
		t.Error("a full hub let another edge in, or lost the one it had")
	}
	// The one that it has may come anew, as after a cut that the hub has not noticed.
	w.raw("edge-1")
}

func attempts(t *testing.T, e *edge) float64 {
	t.Helper()
	families, err := e.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tether_link_dial_attempts_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0 // none yet
}

// The peers are bare streams without goroutines, so that what is counted is the hub's.
func TestAtRestASessionIsOneGoroutineAndNoneIsLeft(t *testing.T) {
	w := newWorld(t, nil)
	w.caches.change(configMap("a"), []byte("one"))
	const n = 200
	before := 0
	for i := range n + 1 {
		if i == 1 {
			before = runtime.NumGoroutine() // with all that is there once, and one session
		}
		node := fmt.Sprintf("edge-%d", i)
		r := w.raw(node)
		r.hello(node)
		for {
			f := r.next()
			for _, id := range f.GetWelcome().GetWant() {
				r.send(&wire.Frame{Body: &wire.Frame_Inventory{Inventory: &wire.Inventory{Kind: id}}})
			}
			if b := f.GetBatch(); b != nil {
				r.send(&wire.Frame{Body: &wire.Frame_Ack{Ack: &wire.Ack{Seq: b.Seq}}})
			}
			if f.GetSynced() != nil {
				break
			}
		}
	}
	each := 1
	if protocol == transport.QUIC {
		each = 7 // six of QUIC's own, at both ends together
	}
	eventually(t, "one goroutine per session", func() bool { return runtime.NumGoroutine()-before <= each*n+2 })
	if got := w.caches.subscribers(); got != n+1 {
		t.Errorf("%d sessions, want %d", got, n+1)
	}
	w.stop()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	if got := w.caches.subscribers(); got != 0 {
		t.Errorf("%d sessions that ended still hear of changes", got)
	}
}

func TestManyEdgesAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	w.caches.change(configMap("a"), []byte("one"))
	const n = 200
	var edges []*edge
	for i := range n {
		edges = append(edges, w.join(fmt.Sprintf("edge-%d", i), edgeConfig{}))
	}
	within(t, time.Minute, "all are up", func() bool {
		for _, e := range edges {
			if !e.up() {
				return false
			}
		}
		return true
	})
	w.caches.change(configMap("a"), []byte("two"))
	eventually(t, "all have the change", func() bool {
		for _, e := range edges {
			if e.store.get(configMap("a")) != "two" {
				return false
			}
		}
		return true
	})
}
