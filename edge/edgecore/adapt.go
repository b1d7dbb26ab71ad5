package edgecore

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/store"
)

// clockFunc adapts a func to the packages' one-method clocks.
type clockFunc func() time.Time

func (c clockFunc) Now() time.Time { return c() }

// kubeletTransport reaches the kubelet's own server at address, whatever host a request names.
func kubeletTransport(address string, config *tls.Config) *http.Transport {
	return &http.Transport{
		// Without HTTP/2: what is upgraded needs a connection of its own.
		TLSClientConfig: config, DisableCompression: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: 10 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		},
	}
}

// kubeletServer is the kubelet, which is made after who asks it.
type kubeletServer struct{ e *EdgeCore }

func (s kubeletServer) Serve(ctx context.Context, c net.Conn) error { return s.e.kubelet.Serve(ctx, c) }

// linkStore presents the store as the link wants it.
type linkStore struct{ *store.Store }

func (s linkStore) ApplyBatch(ctx context.Context, items []link.Incoming) error {
	batch := make([]store.Incoming, len(items))
	for i, in := range items {
		batch[i] = store.Incoming(in)
	}
	return s.Store.ApplyBatch(ctx, batch)
}

func (s linkStore) Load(ctx context.Context, id uint64) (object.Outgoing, bool, error) {
	return s.Store.LoadOutgoing(ctx, id)
}

func (s linkStore) Drop(ctx context.Context, id uint64) error { return s.Store.Drop(ctx, id) }

// Dropped counts by class, in the order of wire.MessageClass.
func (s linkStore) Dropped() []uint64 {
	out := make([]uint64, object.ClassTelemetry+1)
	for class, l := range s.Store.Dropped() {
		if int(class) < len(out) {
			out[class] = l.Expired + l.Evicted + l.Refused
		}
	}
	return out
}

func (s linkStore) Outbox(context.Context) (link.Outbox, error) { return outbox{s.Store.Outbox()}, nil }

// outbox turns the store's heads into the session's.
type outbox struct{ *store.Outbox }

func (o outbox) Take(ctx context.Context) (added []session.Head, gone []uint64, err error) {
	heads, gone, err := o.Outbox.Take(ctx)
	for _, h := range heads {
		added = append(added, session.Head{ID: h.ID, Key: h.Key, Priority: h.Priority})
	}
	return added, gone, err
}
