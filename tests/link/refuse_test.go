package link

import (
	"encoding/binary"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func TestACertificateOpensOnlyItsOwnNodesSession(t *testing.T) {
	w := newWorld(t, nil)
	w.caches.change(object.Key{Kind: object.Nodes, Name: "victim"}, []byte("node"))
	e := w.join("victim", edgeConfig{cert: "thief"})
	eventually(t, "the edge is told why", func() bool {
		p := e.Status().Problem
		return strings.Contains(p, `calls itself "victim"`) && strings.Contains(p, `certificate says "thief"`)
	})
	if w.nodes.session("victim") != "" || e.store.committed() > 0 {
		t.Error("a certificate for thief opened the session of victim")
	}
}

func TestASecondMachineWithTheSameNameIsRefusedWhileTheFirstAnswers(t *testing.T) {
	w := newWorld(t, nil)
	p := w.proxy()
	first := w.join("edge-1", edgeConfig{store: "one", addr: p.addr()})
	eventually(t, "the first is up", first.up)
	session := w.nodes.session("edge-1")
	second := w.join("edge-1", edgeConfig{store: "two"})
	eventually(t, "the second is told why", func() bool {
		return strings.Contains(second.Status().Problem, `another edge is connected as node "edge-1"`)
	})
	if !first.up() || w.nodes.session("edge-1") != session {
		t.Error("the first edge lost its session to the second")
	}
	second.stop()

	// The first dies without a word: now the name is free within seconds, long before its pings are missed.
	p.setSilent(true)
	third := w.join("edge-1", edgeConfig{store: "three"})
	within(t, 10*time.Second, "the third takes the dead one's place", third.up)
	first.stop()
	p.cut()
}

// TestACopyOfAMachineIsRefusedWhileTheMachineAnswers: a copied disk has the same store. Taking turns would help neither.
func TestACopyOfAMachineIsRefusedWhileTheMachineAnswers(t *testing.T) {
	w := newWorld(t, nil)
	p := w.proxy()
	first := w.join("edge-1", edgeConfig{store: "one", addr: p.addr()})
	eventually(t, "the first is up", first.up)
	session := w.nodes.session("edge-1")
	copied := w.join("edge-1", edgeConfig{store: "one"})
	eventually(t, "the copy is told why", func() bool {
		return strings.Contains(copied.Status().Problem, `another edge is connected as node "edge-1"`)
	})
	if !first.up() || w.nodes.session("edge-1") != session {
		t.Error("the machine lost its session to its copy")
	}
	copied.stop()
	first.stop()
	p.cut()
}

// What a process that is gone has left in a buffer on the way is no sign of life: the one after it gets the place.
func TestWhatADeadProcessLeftBehindIsNoSignOfLife(t *testing.T) {
	w := newWorld(t, nil)
	hello := func(r *raw, process string) {
		r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge-1", Store: "one", Process: process,
			Kinds: []*wire.KindDigest{{Kind: "configmaps"}, {Kind: "nodes"}, {Kind: "pods"}}}}})
	}
	old := w.raw("edge-1")
	hello(old, "a")
	eventually(t, "it has a session", func() bool { return w.nodes.session("edge-1") != "" })
	session := w.nodes.session("edge-1")
	hello(w.raw("edge-1"), "b")
	for {
		f := old.next()
		if ping := f.GetPing(); ping != nil {
			old.send(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{Id: ping.Id - 1}}})
			old.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 1}}})
		}
		if g := f.GetGoodbye(); g != nil {
			if g.Reason != wire.Reason_REASON_REPLACED {
				t.Errorf("the old connection got %v, want REASON_REPLACED", g)
			}
			break
		}
	}
	eventually(t, "the new process has the session", func() bool { s := w.nodes.session("edge-1"); return s != "" && s != session })
}

func TestAnEdgeThatReconnectsTakesItsOwnPlaceAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	p := w.proxy()
	first := w.join("edge-1", edgeConfig{addr: p.addr()})
	eventually(t, "up", first.up)
	p.setSilent(true) // the hub does not know that this one is gone
	again := w.join("edge-1", edgeConfig{})
	within(t, 5*time.Second, "the same store connects again", again.up)
	first.stop()
	p.cut()

	// The old connection still answers: it gives way all the same.
	old := w.raw("edge-2")
	old.hello("edge-2")
	eventually(t, "it has a session", func() bool { return w.nodes.session("edge-2") != "" })
	w.raw("edge-2").hello("edge-2")
	for {
		f := old.next()
		if f.GetPing() != nil {
			old.send(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}})
		}
		if g := f.GetGoodbye(); g != nil {
			if g.Reason != wire.Reason_REASON_REPLACED {
				t.Errorf("the old connection got %v, want REASON_REPLACED", g)
			}
			return
		}
	}
}

func TestAPeerThatBreaksTheProtocolHearsWhyAndDisturbsNobody(t *testing.T) {
	w := newWorld(t, nil)
	honest := w.join("honest", edgeConfig{})
	eventually(t, "the honest edge is up", honest.up)
	session := w.nodes.session("honest")
	ping := &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}}
	prefix := func(n uint32, b ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), b...) }
	for _, c := range []struct {
		name  string
		hello bool
		bytes []byte
		frame *wire.Frame
		says  string
	}{
		{"a frame before hello", false, nil, ping, "expected a hello"},
		{"garbage before hello", false, prefix(3, 0xff, 0xff, 0xff), nil, "not a Tether frame"},
		{"a hello that is too large", false, prefix(wire.MaxHandshakeFrame + 1), nil, "expected at most 65536"},
		{"garbage", true, prefix(3, 0xff, 0xff, 0xff), nil, "not a Tether frame"},
		{"a frame that is too large", true, prefix(wire.MaxFrame + 1), nil, "expected at most 4194304"},
		{"an ack of nothing", true, nil, &wire.Frame{Body: &wire.Frame_Ack{Ack: &wire.Ack{Seq: 99}}}, "ack of batch 99"},
		{"a second hello", true, nil, &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "evil"}}}, "a second hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.raw("evil")
			if c.hello {
				r.hello("evil")
			}
			if c.frame != nil {
				r.send(c.frame)
			} else if _, err := r.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			if g := r.goodbye(); g.Reason != wire.Reason_REASON_PROTOCOL || !strings.Contains(g.Message, c.says) {
				t.Errorf("got %v, want REASON_PROTOCOL that says %q", g, c.says)
			}
			eventually(t, "the session is over", func() bool { return w.nodes.session("evil") == "" })
		})
	}
	w.caches.change(configMap("a"), []byte("one"))
	eventually(t, "the honest edge gets changes", func() bool { return honest.store.get(configMap("a")) == "one" })
	if w.nodes.session("honest") != session {
		t.Error("the honest edge lost its session")
	}
}

func TestAnUnknownFrameOfANewerEdgeIsIgnored(t *testing.T) {
	w := newWorld(t, nil)
	r := w.raw("newer")
	r.hello("newer")
	if _, err := r.Write([]byte{0, 0, 0, 3, 0xfa, 0x06, 0x00}); err != nil { // field 111
		t.Fatal(err)
	}
	r.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 42}}})
	for {
		f := r.next()
		if g := f.GetGoodbye(); g != nil {
			t.Fatalf("the hub said goodbye: %v", g)
		}
		if f.GetPong().GetId() == 42 {
			return
		}
	}
}

// A feature of newer edges is told of once, not at every connect of every edge (I12).
func TestAnUnknownFeatureOfNewerEdgesIsLoggedOnce(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	var log strings.Builder // read once the hub has stopped
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	l, p, err := listen(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.serve(l, p)
	for _, node := range []string{"newer-1", "newer-2", "newer-1"} {
		r := w.raw(node)
		r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: node, Store: "raw", Features: []string{"teleport"}}}})
		if f := r.next().GetWelcome(); f == nil || len(f.Features) != 0 {
			t.Fatalf("got %v, expected a Welcome without that feature", f)
		}
	}
	w.stop()
	if n := strings.Count(log.String(), "teleport"); n != 1 {
		t.Errorf("logged %d times, expected once:\n%s", n, log.String())
	}
}

func TestAnEdgesWrongClock(t *testing.T) {
	w := newWorld(t, nil)
	wrong := func(d time.Duration) edgeConfig {
		return edgeConfig{clock: func() time.Time { return time.Now().Add(d) }}
	}
	for name, d := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour, "almost-a-day-behind": -23 * time.Hour} {
		e := w.join(name, wrong(d))
		eventually(t, "an edge whose clock is "+d.String()+" wrong connects", e.up)
		if hub := e.hubTime.Load(); hub == nil || time.Since(*hub).Abs() > time.Minute {
			t.Errorf("the edge was told that the hub's clock says %v", hub)
		}
	}
	e := w.join("epoch", wrong(-40*365*day))
	eventually(t, "an edge whose clock is 40 years behind says so", func() bool {
		p := e.Status().Problem
		return strings.Contains(p, "not valid yet") && strings.Contains(p, "this machine's clock says") && strings.Contains(p, "set the clock")
	})
}

// Whoever gives names away asks the hub whether the holder of one is there.
func TestTheHubKnowsWhoAnswers(t *testing.T) {
	w := newWorld(t, nil)
	if cert := w.hub.Answering(t.Context(), "edge-1"); cert != nil {
		t.Errorf("a node that never connected answers as %s", cert.Subject)
	}
	p := w.proxy()
	e := w.join("edge-1", edgeConfig{addr: p.addr()})
	eventually(t, "up", e.up)
	if cert := w.hub.Answering(t.Context(), "edge-1"); cert == nil || cert.Subject.CommonName != "system:node:edge-1" {
		t.Errorf("a connected node answers as %v", cert)
	}
	if session := w.nodes.session("edge-1"); !w.hub.Owns(session) || w.hub.Owns("0"+session) {
		t.Errorf("the hub does not know its session %q from another's", session)
	}
	p.setSilent(true)
	if cert := w.hub.Answering(t.Context(), "edge-1"); cert != nil {
		t.Error("a session whose edge says nothing counts as one that answers")
	}
	e.stop()
	p.cut()
}
