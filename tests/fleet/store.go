package fleet

import (
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// store is what a simulated edge holds: versions without bodies.
type store struct {
	objects map[object.Key]object.Version
	epoch   string
}

func newStore() *store { return &store{objects: map[object.Key]object.Version{}} }

func (s *store) digests() map[object.ID]object.Digest {
	out := map[object.ID]object.Digest{}
	for k, v := range s.objects {
		d := out[k.Kind]
		d.Add(k, v)
		out[k.Kind] = d
	}
	return out
}

// nodeUID is the uid of the Node that the edge holds, or empty.
func (s *store) nodeUID() string {
	for k, v := range s.objects {
		if k.Kind == object.Nodes {
			return v.UID
		}
	}
	return ""
}

// inventory lists what is held of a kind, in frames of the size that the protocol allows.
func (s *store) inventory(kind object.ID) []*wire.Inventory {
	m := &wire.Inventory{Kind: string(kind)}
	out := []*wire.Inventory{m}
	for k, v := range s.objects {
		if k.Kind != kind {
			continue
		}
		if len(m.Entries) == wire.MaxInventoryEntries {
			m.More = true
			m = &wire.Inventory{Kind: string(kind)}
			out = append(out, m)
		}
		m.Entries = append(m.Entries, &wire.InventoryEntry{Namespace: k.Namespace, Name: k.Name, Uid: v.UID, ResourceVersion: v.RV})
	}
	return out
}

func (s *store) apply(b *wire.Batch) {
	for _, it := range b.Items {
		k := object.Key{Kind: object.ID(it.Kind), Namespace: it.Namespace, Name: it.Name}
		if it.Cause != wire.Cause_CAUSE_NONE {
			delete(s.objects, k)
			continue
		}
		s.objects[k] = object.Version{UID: it.Uid, RV: it.ResourceVersion}
	}
}
