package link

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
)

// features are those that this edge offers.
func (l *Link) features() []string {
	if l.deps.Tunnel == nil {
		return l.cfg.Features
	}
	return append(slices.Clone(l.cfg.Features), session.FeatureTunnel)
}

// openTunnel opens the session's second connection, which the hub asked for, and serves its streams until the hub closes
// it or the session ends.
func (p *peer) openTunnel(ctx context.Context) {
	if p.l.deps.Tunnel == nil {
		return
	}
	// The hub asks when it has none: a former one that still stands here is dead.
	if p.endTunnel != nil {
		p.endTunnel()
	}
	ctx, p.endTunnel = context.WithCancel(ctx)
	p.tunnels.Go(func() {
		dctx, cancel := context.WithTimeout(ctx, attemptLife)
		defer cancel()
		stream, err := p.l.deps.DialTunnel(dctx, p.way, p.session)
		if err != nil {
			p.l.deps.Log.Warn("the hub asked for a tunnel, which could not be opened", "server", p.way.Server, "error", err)
			return
		}
		mux, err := transport.NewMux(stream, false)
		if err != nil {
			p.l.deps.Log.Warn("the hub asked for a tunnel, which could not be opened", "server", p.way.Server, "error", err)
			_ = stream.Close()
			return
		}
		// Before the streams are waited for: a network that takes nothing must hold nobody up.
		stop := context.AfterFunc(ctx, func() { _ = mux.Close() })
		defer stop()
		defer mux.Close()
		p.serveStreams(ctx, mux)
	})
}

// serveStreams serves the streams that the hub opens until the carrier or ctx ends, and then waits for them.
func (p *peer) serveStreams(ctx context.Context, carrier transport.Carrier) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		stream, err := carrier.Accept(ctx)
		if err != nil {
			return
		}
		all.Go(func() { p.serveStream(ctx, stream) })
	}
}

func (p *peer) serveStream(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	if err := transport.Opened(stream); err != nil {
		p.l.deps.Log.Info("a stream of the hub was refused", "error", err)
		return
	}
	p.l.metrics.streams.Inc()
	p.l.deps.Tunnel(ctx, stream)
}
