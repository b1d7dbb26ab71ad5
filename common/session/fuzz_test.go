package session

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// script makes the bytes of some frames.
func script(t testing.TB, frames ...*wire.Frame) []byte {
	t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = wire.Append(b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// play reads frames from data and gives each to receive, until one is refused or the data ends.
func play(data []byte, receive func(*wire.Frame) ([]Effect, error), effect func(Effect)) {
	for r := bytes.NewReader(data); ; {
		f, err := wire.Read(r, wire.MaxFrame)
		if err != nil {
			return
		}
		effects, err := receive(f)
		if err != nil {
			return
		}
		for _, e := range effects {
			effect(e)
		}
	}
}

// checkSent fails where a frame that a machine makes cannot be sent.
func checkSent(t *testing.T, e Effect) {
	t.Helper()
	if s, ok := e.(Send); ok {
		if b, err := wire.Append(nil, s.Frame); err != nil || len(b) > 1<<20 {
			t.Errorf("the machine sends a %s of %d bytes: %v", wire.Name(s.Frame), len(b), err)
		}
	}
}

// FuzzHub plays a hostile edge: whatever it sends, the hub's half does not panic, holds no more than its limits, and
// holds nothing once all is answered.
func FuzzHub(f *testing.F) {
	pods := string(object.Pods)
	hello := &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge", Kinds: []*wire.KindDigest{{Kind: pods, Count: 9}, {Kind: "nodes"}, {Kind: pods}}}}}
	write := func(id uint64, op wire.Op) *wire.Frame {
		return &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: id, Kind: pods, Namespace: "default", Name: "a", Op: op, Body: []byte("{}")}}}
	}
	f.Add(script(f, hello, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: &wire.Inventory{Kind: pods, Entries: []*wire.InventoryEntry{{Namespace: "default", Name: "a", Uid: "u", ResourceVersion: 1 << 63}, {Name: "b", ResourceVersion: 2}}}}},
		&wire.Frame{Body: &wire.Frame_Ack{Ack: &wire.Ack{Seq: 1}}}))
	f.Add(script(f, hello, write(1, wire.Op_OP_OVERLAY), write(1, wire.Op_OP_OVERLAY), write(0, wire.Op_OP_OVERLAY), write(2, wire.Op_OP_DELETE), write(3, 77)))
	f.Add(script(f, hello, &wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Verb: "get"}}}, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{LeaseAgeMs: -1 << 63, Dropped: make([]uint64, 99)}}},
		&wire.Frame{}, &wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{Reason: 99}}}))
	f.Add(script(f, &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: []uint32{9, 1}, Node: "edge", PingIntervalMs: 1 << 62}}}, hello))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1e6, 0)
		view := newTraceView()
		for i := range 4 {
			view.objects[object.Key{Kind: object.Pods, Namespace: "default", Name: fmt.Sprint(i)}] = &traceObject{Version: object.Version{UID: "u", RV: uint64(i + 1)}, size: 10, visible: i > 0}
		}
		h := NewHub(HubConfig{Node: "edge"}, view, now)
		var doing []*wire.Write
		effect := func(e Effect) {
			checkSent(t, e)
			if w, ok := e.(DoWrite); ok {
				doing = append(doing, w.Write)
			}
		}
		play(data, func(f *wire.Frame) ([]Effect, error) {
			now = now.Add(100 * time.Millisecond)
			effects, err := h.Receive(now, f)
			if err != nil {
				return nil, err
			}
			more, _ := h.Poll(now)
			if s := h.Stats(); s.OpenWrites > maxWrites || s.Entries > maxInventory+len(view.objects) || h.Held() < 0 {
				t.Fatalf("the hub holds %+v and %d bytes, past its limits", s, h.Held())
			}
			return append(effects, more...), nil
		}, effect)
		for len(doing) > 0 {
			w := doing[0]
			doing = doing[1:]
			for _, e := range h.Written(w, &wire.Result{Code: 200, Final: true}) {
				effect(e)
			}
		}
		if s := h.Stats(); s.OpenWrites != 0 || h.Held() != 0 {
			t.Errorf("all writes are answered, and the hub holds %d of them with %d bytes", s.OpenWrites, h.Held())
		}
	})
}

// FuzzEdge plays a hub of another make: the edge's half does not panic, sends nothing that cannot be sent, and is sent
// away for a bounded time.
func FuzzEdge(f *testing.F) {
	welcome := &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{Version: wire.Version, Want: []string{"pods", "pods", ""}, Kinds: []string{"pods"}}}}
	result := func(id uint64, final bool, after int64) *wire.Frame {
		return &wire.Frame{Body: &wire.Frame_Result{Result: &wire.Result{Id: id, Final: final, RetryAfterMs: after}}}
	}
	f.Add(script(f, welcome, &wire.Frame{Body: &wire.Frame_Batch{Batch: &wire.Batch{Seq: 1}}}, &wire.Frame{Body: &wire.Frame_Synced{Synced: &wire.Synced{Seq: 1, Kinds: []string{"x"}}}}))
	f.Add(script(f, welcome, result(1, false, 1e10), result(2, true, -1), result(1, true, 0), result(9, true, 0), result(1, true, 0)))
	f.Add(script(f, welcome, &wire.Frame{Body: &wire.Frame_Reply{Reply: &wire.Reply{Code: -1}}}, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 1 << 63}}}))
	f.Add(script(f, welcome, &wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{ComeBackMs: 1e10}}}, &wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{ComeBackMs: -1 << 63}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1e6, 0)
		e := NewEdge(EdgeConfig{Node: "edge"}, Held{})
		e.Start(now)
		for i := range 3 {
			e.Queued(Head{ID: uint64(i + 1), Key: object.Key{Kind: object.Pods, Namespace: "default", Name: fmt.Sprint(i / 2)}})
		}
		play(data, func(f *wire.Frame) ([]Effect, error) {
			now = now.Add(100 * time.Millisecond)
			effects, err := e.Receive(now, f)
			if err != nil {
				return nil, err
			}
			more, next := e.Poll(now, Vitals{LeaseAge: time.Second})
			if next.Before(now) || next.After(now.Add(time.Hour)) {
				t.Errorf("the edge wants to be woken at %s, now is %s", next, now)
			}
			return append(effects, more...), nil
		}, func(x Effect) {
			checkSent(t, x)
			switch x := x.(type) {
			case Close:
				if x.ComeBack < 0 || x.ComeBack > maxComeBack {
					t.Errorf("the edge is sent away for %s, expected %s at most", x.ComeBack, maxComeBack)
				}
			case WriteFailed:
				if x.Again <= 0 || x.Again > time.Minute {
					t.Errorf("a write rests for %s, expected up to a minute", x.Again)
				}
			case ApplyBatch:
				for _, more := range e.Applied(x.Batch.Seq) {
					checkSent(t, more)
				}
			}
		})
	})
}
