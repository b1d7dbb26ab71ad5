// Package run starts and stops the components of a process: in order, in reverse order, and all of them.
//
// It promises that a Group's Start returns only when every component has returned, that a component is told to stop
// only after all that were added later have ended, and that the first failure ends the rest and is what Start returns,
// with the component's name. The composition roots (cloud/cloudcore, edge/edgecore) build Groups; the mains take their
// context from Signals and their logger from Logger.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"syscall"
	"time"
)

// A Component does its work inside Start, which blocks until ctx is done and then returns nil (or ctx's error), or
// returns an error earlier because it cannot go on. Start is called once.
type Component interface {
	Start(ctx context.Context) error
}

// Func makes a Component of a function.
type Func func(ctx context.Context) error

// Start calls f.
func (f Func) Start(ctx context.Context) error { return f(ctx) }

// ErrEnded is wrapped by Start's error when a component returned nil though nobody had asked it to stop. A process
// that goes on without one of its parts looks healthy and is not.
var ErrEnded = errors.New("ended though it was not asked to")

// slow is how long a component may take to stop before the log names it; each further wait is named again.
const slow = 10 * time.Second

// A Group is a Component made of components. Build it with New and Add, then call Start once. It is not safe for
// concurrent use before Start, and takes no additions after.
type Group struct {
	log     *slog.Logger
	members []*member
}

type member struct {
	name string
	c    Component
	stop context.CancelFunc
	done chan struct{}
	err  error // set before done is closed
}

// New returns an empty group that reports starts, stops and slow stops to log.
func New(log *slog.Logger) *Group { return &Group{log: log} }

// Add appends a component. name identifies it in logs and errors.
func (g *Group) Add(name string, c Component) {
	g.members = append(g.members, &member{name: name, c: c, done: make(chan struct{})})
}

// Start starts the components in the order of Add and blocks until ctx is done or a component ends; then it stops the
// started ones in reverse order, each after the later ones have returned, and waits for all. It returns nil after a
// clean stop, else the first failure joined with whatever failed while stopping.
func (g *Group) Start(ctx context.Context) error {
	ended := make(chan *member, len(g.members))
	started := g.startAll(ctx, ended)
	var first *member
	select {
	case <-ctx.Done():
	case first = <-ended:
	}
	var errs []error
	if first != nil {
		errs = append(errs, first.failure())
	}
	for i := len(started) - 1; i >= 0; i-- {
		m := started[i]
		g.stop(m)
		if m != first && m.err != nil && !errors.Is(m.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, m.err))
		}
	}
	return errors.Join(errs...)
}

// startAll starts the components, unless ctx is done, and returns those that it started.
func (g *Group) startAll(ctx context.Context, ended chan<- *member) (started []*member) {
	for _, m := range g.members {
		if ctx.Err() != nil {
			return started
		}
		// A member's context carries ctx's values but not its end: members stop one after the other.
		mctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		m.stop = cancel
		started = append(started, m)
		g.log.Debug("component starts", "component", m.name)
		go func() {
			m.err = m.c.Start(mctx)
			close(m.done)
			ended <- m
		}()
	}
	return started
}

// stop ends one member and waits for it.
func (g *Group) stop(m *member) {
	m.stop()
	begun := time.Now()
	tick := time.NewTicker(slow)
	defer tick.Stop()
	for {
		select {
		case <-m.done:
			g.log.Debug("component stopped", "component", m.name)
			return
		case <-tick.C:
			g.log.Warn("component is slow to stop", "component", m.name, "waited", time.Since(begun).Round(time.Second))
		}
	}
}

// failure is why the first member to end has ended.
func (m *member) failure() error {
	if m.err == nil {
		return fmt.Errorf("%s: %w", m.name, ErrEnded)
	}
	return fmt.Errorf("%s: %w", m.name, m.err)
}

// Signals returns a context that ends at the first SIGTERM or SIGINT, with the signal as its cause. A second signal
// ends the process in the ordinary way, so a stop that hangs can be cut short. The returned function releases the
// signals.
func Signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
