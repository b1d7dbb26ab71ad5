package session

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// What an edge may make a hub remember is bounded, and so is what a hub may ask of an edge.
func TestAPeerThatGoesPastALimitEndsItsSession(t *testing.T) {
	now := time.Unix(1e6, 0)
	hello := &wire.Hello{Versions: wire.Versions(), Node: "edge", Kinds: []*wire.KindDigest{{Kind: string(object.Pods), Count: 1}}}
	hub := func() *Hub {
		h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
		if _, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Hello{Hello: hello}}); err != nil {
			t.Fatal(err)
		}
		return h
	}
	for name, broken := range map[string]func() error{
		"kinds in a hello": func() (err error) {
			m := &wire.Hello{Versions: wire.Versions(), Node: "edge", Kinds: make([]*wire.KindDigest, maxKinds+1)}
			_, err = NewHub(HubConfig{Node: "edge"}, newTraceView(), now).Receive(now, &wire.Frame{Body: &wire.Frame_Hello{Hello: m}})
			return err
		},
		"writes without an answer": func() (err error) {
			h := hub()
			for i := 0; i <= maxWrites && err == nil; i++ {
				w := &wire.Write{Id: uint64(i), Kind: "pods", Namespace: "default", Name: "a"}
				_, err = h.Receive(now, &wire.Frame{Body: &wire.Frame_Write{Write: w}})
				if err != nil && i < maxWrites {
					t.Errorf("write %d was refused, the limit is %d", i, maxWrites)
				}
			}
			return err
		},
		"entries of one inventory frame": func() (err error) {
			m := &wire.Inventory{Kind: string(object.Pods), Entries: make([]*wire.InventoryEntry, wire.MaxInventoryEntries+1)}
			_, err = hub().Receive(now, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
			return err
		},
		"entries of all inventory frames": func() (err error) {
			h := hub()
			for i := 0; i <= maxInventory/wire.MaxInventoryEntries && err == nil; i++ {
				m := &wire.Inventory{Kind: string(object.Pods), More: true}
				for j := range wire.MaxInventoryEntries {
					m.Entries = append(m.Entries, &wire.InventoryEntry{Name: fmt.Sprintf("%d-%d", i, j), Uid: "u", ResourceVersion: 1})
				}
				_, err = h.Receive(now, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
			}
			return err
		},
		"entries of all kinds": func() (err error) {
			h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
			hello := &wire.Hello{Versions: wire.Versions(), Node: "edge", Kinds: []*wire.KindDigest{
				{Kind: string(object.Pods), Count: 1}, {Kind: string(object.Secrets), Count: 1}}}
			if _, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Hello{Hello: hello}}); err != nil {
				t.Fatal(err)
			}
			for i := 0; i <= maxInventory/wire.MaxInventoryEntries && err == nil; i++ {
				m := &wire.Inventory{Kind: string([]object.ID{object.Pods, object.Secrets}[i%2]), More: true}
				for j := range wire.MaxInventoryEntries {
					m.Entries = append(m.Entries, &wire.InventoryEntry{Name: fmt.Sprintf("%d-%d", i, j), Uid: "u", ResourceVersion: 1})
				}
				_, err = h.Receive(now, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
			}
			return err
		},
		"what a call has beside its body": func() (err error) {
			_, err = hub().Receive(now, &wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Verb: "get", Query: strings.Repeat("a", maxCallHead)}}})
			return err
		},
		"a long uid": func() (err error) {
			e := &wire.InventoryEntry{Name: "a", Uid: string(make([]byte, object.MaxUID+1)), ResourceVersion: 1}
			_, err = hub().Receive(now, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: &wire.Inventory{Kind: string(object.Pods), Entries: []*wire.InventoryEntry{e}}}})
			return err
		},
		"inventories that a hub wants": func() (err error) {
			_, err = NewEdge(EdgeConfig{}, Held{}).Receive(now, &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{Version: wire.Version, Want: make([]string, maxKinds+1)}}})
			return err
		},
	} {
		if err := broken(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s past the limit: got %v, want ErrProtocol", name, err)
		}
	}
}

// Only bodies count as held, so nothing else of a write may be long.
func TestAWriteWithALongNameOrUIDIsRefusedAndNotHeld(t *testing.T) {
	now := time.Unix(1e6, 0)
	h := NewHub(HubConfig{Node: "edge"}, newTraceView(), now)
	if _, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge"}}}); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", 1<<20)
	for what, w := range map[string]*wire.Write{
		"uid":  {Kind: "pods", Namespace: "default", Name: "a", Uid: long},
		"name": {Kind: "pods", Namespace: "default", Name: long},
		"kind": {Kind: long, Name: "a"},
	} {
		effects, err := h.Receive(now, &wire.Frame{Body: &wire.Frame_Write{Write: w}})
		if err != nil || len(effects) != 1 {
			t.Fatalf("a long %s: %v, %v", what, effects, err)
		}
		s, ok := effects[0].(Send)
		if r := s.Frame.GetResult(); !ok || r.GetCode() != 400 || !r.GetFinal() || len(r.GetMessage()) > 500 {
			t.Errorf("a long %s: got %.300v, expected a short, final 400", what, effects[0])
		}
	}
	if s := h.Stats(); s.OpenWrites != 0 {
		t.Errorf("%d writes are held", s.OpenWrites)
	}
}
