package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// assertAgain is how long after a disk had no room for what is to be written again that is tried once more.
const assertAgain = time.Minute

// doubt begins a session of that epoch: where the cloud may have lost what was delivered to it, because it went back in time or because another
// machine had this node's session, all of it is queued again.
func (p *peer) doubt(ctx context.Context, epoch string) error {
	l := p.l
	before := l.deps.Store.Epoch()
	restored := before != "" && before != epoch
	write := func(context.Context) error { return nil }
	switch {
	case epoch != before: // asserts all itself
		write = func(ctx context.Context) error { return l.deps.Store.SetEpoch(ctx, epoch) }
	case l.displaced:
		write = l.deps.Store.AssertAll
	}
	switch err := write(ctx); {
	case err == nil:
	case errors.Is(err, object.ErrFull):
		l.deps.Log.Warn("there is no room to write again what the cloud may have lost: trying until there is", "error", err)
		p.tunnels.Go(func() { p.writeLater(ctx, write) })
	default:
		return fmt.Errorf("%w: write again what the cloud may have lost: %w", errStore, err)
	}
	if (l.displaced || restored) && l.deps.Doubted != nil {
		l.deps.Doubted()
	}
	l.displaced = false
	return nil
}

// writeLater writes once the disk has room: the session itself may bring what gives room back. A session that ends before leaves it to the
// next one.
func (p *peer) writeLater(ctx context.Context, write func(context.Context) error) {
	tick := time.NewTicker(assertAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.undone.Store(true)
			return
		}
		switch err := write(ctx); {
		case err == nil:
			p.l.deps.Log.Info("what the cloud may have lost was written again")
			return
		case !errors.Is(err, object.ErrFull) && ctx.Err() == nil:
			p.l.deps.Log.Error("cannot write again what the cloud may have lost", "error", err)
		}
	}
}
