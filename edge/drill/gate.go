package drill

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

var errStarting = errors.New("edgecore looks whether a drill is under way")

// A Gate says whether this node may reach the cloud. It is shut until the drill has started, since one may be under way.
type Gate struct {
	// mu guards all below.
	mu sync.Mutex
	// why is nil while the gate is open; changed is closed and replaced when it is another.
	why     error
	changed chan struct{}
}

func newGate() *Gate { return &Gate{why: errStarting, changed: make(chan struct{})} }

// State returns why the cloud may not be reached, nil if it may; changed is closed once that is another.
func (g *Gate) State() (changed <-chan struct{}, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed, g.why
}

func (g *Gate) set(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if fmt.Sprint(g.why) == fmt.Sprint(why) {
		return
	}
	g.why = why
	close(g.changed)
	g.changed = make(chan struct{})
}

// While returns a start that runs another one whenever the gate is open: its context ends when the gate is shut. It returns when
// ctx ends, or when start returns by itself.
func (g *Gate) While(start func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			changed, why := g.State()
			if why == nil {
				open, cancel := context.WithCancel(ctx)
				go func() {
					select {
					case <-changed:
						cancel()
					case <-open.Done():
					}
				}()
				err := start(open)
				shut := open.Err() != nil
				cancel()
				if !shut {
					return err
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		return nil
	}
}
