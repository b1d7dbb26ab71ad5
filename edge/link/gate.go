package link

import (
	"context"
	"errors"
)

// A Gate says whether the cloud may be reached at all. Its methods do not block.
type Gate interface {
	// State returns why not, nil if it may; changed is closed once that is another.
	State() (changed <-chan struct{}, why error)
}

// errShut ends what is under way when the gate is shut. The session then ends without a goodbye, as if the cable were pulled.
var errShut = errors.New("the gate was shut")

// opened waits until the gate is open, or ctx is done, and returns a context that ends when it is shut. done frees what that takes.
func (l *Link) opened(ctx context.Context) (open context.Context, done func()) {
	open, cancel := context.WithCancelCause(ctx)
	done = func() { cancel(nil) }
	if l.deps.Gate == nil {
		return open, done
	}
	for {
		changed, why := l.deps.Gate.State()
		if why == nil {
			go func() {
				select {
				case <-changed:
					cancel(errShut)
				case <-open.Done():
				}
			}()
			return open, done
		}
		l.down(why)
		select {
		case <-changed:
		case <-ctx.Done():
			return open, done
		}
	}
}
