// Package uplink joins the node's store to the link. edge/edgecore runs it; it is a package of its own so that tests can run it
// without a kubelet.
package uplink

import (
	"context"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/store"
)

// A Store presents the store as the link wants it.
type Store struct{ *store.Store }

func (s Store) ApplyBatch(ctx context.Context, items []link.Incoming) error {
	batch := make([]store.Incoming, len(items))
	for i, in := range items {
		batch[i] = store.Incoming(in)
	}
	return s.Store.ApplyBatch(ctx, batch)
}

func (s Store) Load(ctx context.Context, id uint64) (object.Outgoing, bool, error) {
	return s.Store.LoadOutgoing(ctx, id)
}

func (s Store) Drop(ctx context.Context, id uint64) error { return s.Store.Drop(ctx, id) }

// Dropped counts by class, in the order of wire.MessageClass.
func (s Store) Dropped() []uint64 {
	out := make([]uint64, object.ClassTelemetry+1)
	for class, l := range s.Store.Dropped() {
		if int(class) < len(out) {
			out[class] = l.Expired + l.Evicted + l.Refused
		}
	}
	return out
}

func (s Store) Outbox(context.Context) (link.Outbox, error) { return outbox{s.Store.Outbox()}, nil }

// outbox turns the store's heads into the session's.
type outbox struct{ *store.Outbox }

func (o outbox) Take(ctx context.Context) (added []session.Head, gone []uint64, err error) {
	heads, gone, err := o.Outbox.Take(ctx)
	for _, h := range heads {
		added = append(added, session.Head{ID: h.ID, Key: h.Key, Priority: h.Priority})
	}
	return added, gone, err
}
