package session

import (
	"errors"
	"fmt"
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
