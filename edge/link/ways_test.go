package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/transport"
)

// network is what a link dials into: each protocol works, hangs as if its packets were dropped, or is refused.
type network struct {
	t  *testing.T
	mu sync.Mutex
	// delay is how long a dial of the protocol takes; broken says how it fails instead.
	delay  map[transport.Protocol]time.Duration
	broken map[transport.Protocol]error
	dials  map[transport.Protocol]int
	hubs   []*cloud
}

var errHangs = errors.New("packets are dropped")

func (n *network) dial(ctx context.Context, way Way) (transport.Stream, error) {
	n.mu.Lock()
	n.dials[way.Protocol]++
	delay, broken := n.delay[way.Protocol], n.broken[way.Protocol]
	n.mu.Unlock()
	if errors.Is(broken, errHangs) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if broken != nil {
		return nil, broken
	}
	edge, hub := newCloud(n.t)
	n.mu.Lock()
	n.hubs = append(n.hubs, hub)
	n.mu.Unlock()
	go func() {
		if f, ok := <-hub.got; ok && f.GetHello() != nil {
			hub.send(welcome())
		}
	}()
	return edge, nil
}

func (n *network) dialled(p transport.Protocol) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[p]
}

func (n *network) set(p transport.Protocol, broken error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[p] = broken
}

// cut ends every stream, as a hub that stops does.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.hubs {
		_ = h.Close()
	}
	n.hubs = nil
}

func newRace(t *testing.T, protocols []transport.Protocol) (*network, *Link) {
	t.Helper()
	n := &network{t: t, delay: map[transport.Protocol]time.Duration{transport.QUIC: 50 * time.Millisecond, transport.WebSocket: 70 * time.Millisecond},
		broken: map[transport.Protocol]error{}, dials: map[transport.Protocol]int{}}
	l, err := New(Config{Node: "edge", Protocols: protocols, Servers: []Server{{"one:10000", "one:10001"}, {"two:10000", "two:10001"}}},
		Deps{Dial: n.dial, Store: &fakeStore{}, LeaseAge: func() time.Duration { return -1 }, Log: slog.New(slog.DiscardHandler),
			Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return n, l
}

// pass lets time pass by the fake clock of a synctest bubble: nothing waits for real.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// up waits, by the fake clock, until the link is up and returns by what and after how long.
func up(t *testing.T, l *Link) (transport.Protocol, time.Duration) {
	t.Helper()
	start := time.Now()
	for range 10000 {
		if s := l.Status(); s.Connected {
			return s.Protocol, time.Since(start)
		}
		pass(10 * time.Millisecond)
	}
	t.Fatal("the link is not up after 100 s")
	return "", 0
}

// down waits until it is not.
func down(t *testing.T, l *Link) {
	t.Helper()
	for range 10000 {
		if !l.Status().Connected {
			return
		}
		pass(10 * time.Millisecond)
	}
	t.Fatal("the link is still up after 100 s")
}

var both = []transport.Protocol{transport.QUIC, transport.WebSocket}

func racing(t *testing.T, protocols []transport.Protocol, prepare func(*network), test func(*network, *Link)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n, l := newRace(t, protocols)
		if prepare != nil {
			prepare(n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = l.Start(ctx) }()
		test(n, l)
		cancel()
		<-done
		n.cut()
	})
}

func TestQUICIsPreferredWhereBothWork(t *testing.T) {
	racing(t, both, func(n *network) { n.delay[transport.QUIC] = 250 * time.Millisecond }, func(n *network, l *Link) {
		if p, _ := up(t, l); p != transport.QUIC {
			t.Errorf("the link is up by %s", p)
		}
		if n.dialled(transport.WebSocket) != 0 {
			t.Error("WebSocket was dialled although QUIC was there within its head start")
		}
	})
}

func TestWhereUDPIsDroppedWebSocketIsThereSoonAndGoesFirstNextTime(t *testing.T) {
	racing(t, both, func(n *network) { n.broken[transport.QUIC] = errHangs }, func(n *network, l *Link) {
		if p, took := up(t, l); p != transport.WebSocket || took > 3*time.Second {
			t.Errorf("up by %s after %s, want WebSocket within 3 s", p, took)
		}
		before := n.dialled(transport.QUIC)
		n.cut()
		down(t, l)
		if p, took := up(t, l); p != transport.WebSocket || took > time.Second || n.dialled(transport.QUIC) != before {
			t.Errorf("the second time: up by %s after %s, QUIC dialled %d times more", p, took, n.dialled(transport.QUIC)-before)
		}
		// It is tried again when some time has passed.
		n.set(transport.QUIC, nil)
		pass(demotion)
		n.cut()
		down(t, l)
		if p, _ := up(t, l); p != transport.QUIC {
			t.Errorf("%s after QUIC was demoted the link is up by %s", demotion, p)
		}
	})
}

func TestARefusalByQUICLetsWebSocketTryAtOnce(t *testing.T) {
	refused := fmt.Errorf("x: %w", &transport.RefusedError{Err: errors.New("no")})
	racing(t, both, func(n *network) { n.broken[transport.QUIC] = refused }, func(n *network, l *Link) {
		if p, took := up(t, l); p != transport.WebSocket || took > headStart {
			t.Errorf("up by %s after %s, want WebSocket before the head start is over", p, took)
		}
	})
	// Refused by both, the edge backs off as if there were one; refused by WebSocket where UDP is dropped, too.
	for name, quic := range map[string]error{"refused": refused, "dropped": errHangs} {
		racing(t, both, func(n *network) { n.broken[transport.QUIC], n.broken[transport.WebSocket] = quic, refused }, func(n *network, l *Link) {
			pass(10 * time.Minute)
			if d := n.dialled(transport.WebSocket); d < 10 || d > 60 {
				t.Errorf("QUIC %s: WebSocket was dialled %d times in ten minutes: expected the back-off of refusals", name, d)
			}
		})
	}
}

// Where TCP does not get through, QUIC's no is the hub's.
func TestARefusalByQUICAloneIsNotHammered(t *testing.T) {
	refused := fmt.Errorf("x: %w", &transport.RefusedError{RetryAfter: time.Minute, Err: errors.New("full")})
	for name, ws := range map[string]error{"dropped": errHangs, "rejected": errors.New("connection refused")} {
		racing(t, both, func(n *network) { n.broken[transport.QUIC], n.broken[transport.WebSocket] = refused, ws }, func(n *network, l *Link) {
			pass(10 * time.Minute)
			if d := n.dialled(transport.QUIC); d < 10 || d > 24 {
				t.Errorf("TCP %s: QUIC was dialled %d times in ten minutes, told by two servers to come back in one", name, d)
			}
		})
	}
}

// A hub without room for a handshake over QUIC says nothing of UDP.
func TestABusyHubDoesNotDemoteQUIC(t *testing.T) {
	busy := fmt.Errorf("x: %w", transport.ErrBusy)
	racing(t, both, func(n *network) { n.broken[transport.QUIC] = busy }, func(n *network, l *Link) {
		if p, _ := up(t, l); p != transport.WebSocket {
			t.Fatalf("up by %s", p)
		}
		n.set(transport.QUIC, nil)
		n.cut()
		down(t, l)
		if p, _ := up(t, l); p != transport.QUIC {
			t.Errorf("after the hub was busy the link is up by %s", p)
		}
	})
}

func TestSilenceCountsAgainstQUICOnlyWhereTheNetworkIsWell(t *testing.T) {
	now := time.Now()
	w := ways{servers: []Server{{"a:1", "a:2"}}, byQUIC: true, byWebSocket: true, now: func() time.Time { return now }}
	silent := ended{err: errSilent, welcomed: true}
	quic := func() bool { return w.next()[0].Protocol == transport.QUIC }
	// The whole network is cut, again and again: each connect takes as long as the cut.
	for range 20 {
		now = now.Add(9 * time.Minute)
		w.ended(transport.QUIC, silent, 9*time.Minute)
		now = now.Add(time.Minute)
		w.connected(transport.QUIC, true)
	}
	if !quic() {
		t.Error("cuts of the whole network demoted QUIC")
	}
	// It fell silent, and the hub was there at once: next time WebSocket goes first.
	now = now.Add(9 * time.Minute)
	w.ended(transport.QUIC, silent, 9*time.Minute)
	now = now.Add(time.Second)
	w.connected(transport.QUIC, true)
	if quic() {
		t.Error("QUIC fell silent on a network that was well, and goes first again")
	}
	// A session that lasts makes it good.
	w.ended(transport.QUIC, silent, proven)
	if !quic() {
		t.Error("a session over QUIC that lasted did not end its demotion")
	}
	// An orderly end in between is no silence.
	w.connected(transport.QUIC, true)
	w.ended(transport.QUIC, ended{err: errors.New("closed"), welcomed: true}, 9*time.Minute)
	w.connected(transport.QUIC, true)
	if w.demotions > 1 {
		t.Errorf("%d demotions", w.demotions)
	}
}

// The clock that a Welcome puts right moves no demotion.
func TestADemotionDoesNotFollowTheClock(t *testing.T) {
	_, l := newRace(t, both)
	l.deps.Now = func() time.Time { return time.Now().Add(-30 * 24 * time.Hour) }
	if d := time.Until(l.ways.now()); d < -time.Minute || d > time.Minute {
		t.Errorf("ways go by a clock that is %s off the monotonic one", d)
	}
}

func TestQUICThatFailsAfterItConnectedIsDemoted(t *testing.T) {
	racing(t, both, nil, func(n *network, l *Link) {
		if p, _ := up(t, l); p != transport.QUIC {
			t.Fatalf("up by %s", p)
		}
		// Nothing that the edge sends is answered, and QUIC goes on connecting.
		down(t, l)
		p, _ := up(t, l)
		if p != transport.WebSocket {
			t.Errorf("a session over QUIC fell silent within a minute: next is %s, want WebSocket", p)
		}
	})
	// A hub that says goodbye, or stops, is no fault of QUIC.
	racing(t, both, nil, func(n *network, l *Link) {
		for range 5 {
			if p, _ := up(t, l); p != transport.QUIC {
				t.Fatalf("up by %s", p)
			}
			n.cut()
			down(t, l)
		}
	})
}

func TestOneProtocolAloneIsNeverLeft(t *testing.T) {
	for _, only := range both {
		other := transport.QUIC
		if only == other {
			other = transport.WebSocket
		}
		racing(t, []transport.Protocol{only}, func(n *network) { n.broken[only] = errHangs }, func(n *network, l *Link) {
			pass(time.Minute)
			n.set(only, nil)
			if p, _ := up(t, l); p != only || n.dialled(other) != 0 {
				t.Errorf("only %s: up by %s, the other one was dialled %d times", only, p, n.dialled(other))
			}
		})
	}
}

// After a cut the packets of the two come through in any order: an old attempt of WebSocket must not push QUIC out.
func TestAfterACutQUICMayStillOvertake(t *testing.T) {
	racing(t, both, func(n *network) { n.broken[transport.QUIC] = errHangs; n.delay[transport.WebSocket] = 5 * time.Second }, func(n *network, l *Link) {
		pass(4 * time.Second)
		n.set(transport.QUIC, nil)
		n.mu.Lock()
		n.delay[transport.QUIC] = 400 * time.Millisecond
		n.mu.Unlock()
		if p, took := up(t, l); p != transport.QUIC || took > 3*time.Second {
			t.Errorf("up by %s after %s", p, took)
		}
	})
}

func TestServersAreTriedInRandomOrder(t *testing.T) {
	w := ways{servers: []Server{{"a:1", ""}, {"b:1", ""}, {"c:1", ""}}, byWebSocket: true, now: time.Now}
	first := map[string]int{}
	for range 300 {
		w.shuffle()
		all := map[string]bool{}
		for i := range 3 {
			s := w.next()[0].Server
			if i == 0 {
				first[s]++
			}
			all[s] = true
		}
		if len(all) != 3 {
			t.Fatalf("three tries reached %v", all)
		}
	}
	for _, s := range w.servers {
		if n := first[s.WebSocket]; n < 50 || n > 150 {
			t.Errorf("%s was first %d times of 300", s.WebSocket, n)
		}
	}
}

func TestAServerThatSentTheEdgeAwayIsTriedLastOnce(t *testing.T) {
	w := ways{servers: []Server{{"a:1", "a:2"}, {"b:1", "b:2"}, {"c:1", "c:2"}}, byWebSocket: true, byQUIC: true, now: time.Now}
	for range 50 {
		for _, way := range []Way{{transport.WebSocket, "b:1"}, {transport.QUIC, "b:2"}} {
			w.sent(way)
			w.shuffle()
			if last := w.servers[2]; last.WebSocket != "b:1" {
				t.Fatalf("sent away by %v, the last one tried is %v", way, last)
			}
		}
	}
	first := 0
	for range 300 {
		w.shuffle()
		if w.servers[0].WebSocket == "b:1" {
			first++
		}
	}
	if first < 50 {
		t.Errorf("it was first %d times of 300 afterwards, expected a third", first)
	}
}

// A server that has no room is let be for as long as it says; the others are tried at once, and, since they may be gone, less and less often.
func TestAServerWithoutRoomIsPassedOver(t *testing.T) {
	refused := fmt.Errorf("x: %w", &transport.RefusedError{RetryAfter: time.Minute, Err: errors.New("full")})
	clock := time.Unix(1000, 0)
	w := ways{servers: []Server{{WebSocket: "a:1", QUIC: "a:2"}, {WebSocket: "b:1", QUIC: "b:2"}, {WebSocket: "c:1", QUIC: "c:2"}}, byWebSocket: true, now: func() time.Time { return clock }}
	expect := func(by string, full time.Duration, elsewhere bool) {
		t.Helper()
		if f, e := w.refused(Way{transport.WebSocket, by}, refused); f != full || e != elsewhere {
			t.Errorf("refused by %s: full for %s, elsewhere %t, expected %s and %t", by, f, e, full, elsewhere)
		}
	}
	expect("a:1", time.Minute, true)
	for range 20 {
		w.shuffle()
		if last := w.servers[2].WebSocket; last != "a:1" {
			t.Fatalf("%s comes last, expected the one that is full", last)
		}
	}
	clock = clock.Add(10 * time.Second)
	expect("b:2", time.Minute, true) // by QUIC
	clock = clock.Add(10 * time.Second)
	expect("c:1", 40*time.Second, false)
	clock = clock.Add(40 * time.Second)
	w.sent(Way{transport.WebSocket, "a:1"})
	w.shuffle()
	if w.servers[0].WebSocket != "a:1" {
		t.Errorf("first comes %v, expected the one that may have room, though it sent this edge away", w.servers[0])
	}
	expect("a:1", 10*time.Second, false)
	if full, _ := w.refused(Way{transport.WebSocket, "a:1"}, errors.New("a network")); full != 0 {
		t.Errorf("a lost network is taken for a server without room for %s", full)
	}
	p := patience{random: func() float64 { return 1 }}
	var waits []time.Duration
	for range 8 {
		waits = append(waits, p.full(time.Minute, true))
	}
	if waits[0] > time.Second || waits[7] != time.Minute || p.full(40*time.Second, false) != 40*time.Second {
		t.Errorf("waits %v, expected them to grow from half a second to a minute", waits)
	}
}
