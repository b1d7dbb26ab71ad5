package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A kubelet that writes its status often, with an API server that is slow, holds one write and one waiting for it.
func TestAWriteThatWaitsIsReplacedByTheNext(t *testing.T) {
	now := time.Unix(1e6, 0)
	h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
	receive := func(f *wire.Frame) []Effect {
		t.Helper()
		effects, err := h.Receive(now, f)
		if err != nil {
			t.Fatal(err)
		}
		return effects
	}
	write := func(id uint64, op wire.Op, size int) (doing *wire.Write, answered *wire.Result) {
		t.Helper()
		w := &wire.Write{Id: id, Kind: string(object.Pods), Namespace: "default", Name: "a", Op: op, Uid: "u", Body: make([]byte, size)}
		for _, e := range receive(&wire.Frame{Body: &wire.Frame_Write{Write: w}}) {
			switch e := e.(type) {
			case DoWrite:
				doing = e.Write
			case Send:
				answered = e.Frame.GetResult()
			}
		}
		return doing, answered
	}
	receive(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge"}}})

	first, _ := write(1, wire.Op_OP_OVERLAY, 100)
	if first == nil {
		t.Fatal("the first write is not applied")
	}
	if d, r := write(2, wire.Op_OP_OVERLAY, 200); d != nil || r != nil {
		t.Fatalf("the second write: applied %v, answered %v; expected it to wait", d, r)
	}
	for id := uint64(3); id < 3+2*maxWrites; id++ {
		d, r := write(id, wire.Op_OP_OVERLAY, int(id))
		if d != nil || r == nil || r.Id != id-1 || r.Final {
			t.Fatalf("write %d: applied %v, answered %v; expected the one before it to be answered, and not for good", id, d, r)
		}
	}
	last := uint64(2 + 2*maxWrites)
	if got, want := h.Held(), 100+int(last); got != want {
		t.Errorf("the hub holds %d bytes, expected %d: the first and the last", got, want)
	}
	// A delete is no overlay, and what comes after it is of another time.
	write(last+1, wire.Op_OP_DELETE, 0)
	if _, r := write(last+2, wire.Op_OP_OVERLAY, 1); r != nil {
		t.Errorf("an overlay took the place of the delete before it: %v", r)
	}
	var order []uint64
	for doing := first; doing != nil; {
		order = append(order, doing.Id)
		effects := h.Written(doing, &wire.Result{Code: 200, Final: true})
		doing = nil
		for _, e := range effects {
			if d, ok := e.(DoWrite); ok {
				doing = d.Write
			}
		}
	}
	if got, want := fmt.Sprint(order), fmt.Sprint([]uint64{1, last, last + 1, last + 2}); got != want {
		t.Errorf("applied %s, expected %s", got, want)
	}
	if s := h.Stats(); h.Held() != 0 || s.OpenWrites != 0 {
		t.Errorf("the hub still holds %d bytes, %d writes", h.Held(), s.OpenWrites)
	}
}

// While the hub keeps an edge waiting it hears nothing from it, and must not take it for dead.
func TestAnEdgeThatIsKeptWaitingIsNotDead(t *testing.T) {
	now := time.Unix(1e6, 0)
	h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
	now = now.Add(40 * time.Second)
	h.Heard(now)
	now = now.Add(40 * time.Second)
	if effects, _ := h.Poll(now); len(effects) != 0 {
		t.Errorf("80 s after the last frame, 40 s after the edge was told to be alive: %v", effects)
	}
	now = now.Add(10 * time.Second)
	if effects, _ := h.Poll(now); len(effects) != 1 {
		t.Errorf("50 s after the last sign of life: %v, expected a close", effects)
	}
}

// What is put whole, a device's status, is replaced like an overlay: its reports come faster than they are written.
func TestWhatIsPutWaitsOnceToo(t *testing.T) {
	now := time.Unix(1e6, 0)
	h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
	if _, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge"}}}); err != nil {
		t.Fatal(err)
	}
	for id := uint64(1); id < 2*maxWrites; id++ {
		w := &wire.Write{Id: id, Kind: string(object.DeviceStatuses), Namespace: "default", Name: "pump", Op: wire.Op_OP_PUT, Uid: "u", Body: []byte("{}")}
		if _, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Write{Write: w}}); err != nil {
			t.Fatalf("write %d ends the session: %v", id, err)
		}
	}
}
