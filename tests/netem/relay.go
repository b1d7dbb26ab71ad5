package netem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Direction is a way through the relay.
type Direction int

// The two ways.
const (
	Up   Direction = iota // from the edge to the root
	Down                  // from the root to the edge
)

func (d Direction) String() string {
	if d == Up {
		return "up"
	}
	return "down"
}

// Config describes a relay.
type Config struct {
	// Root and Edge are the names of the two links to join, in the network namespace of the thread that calls New:
	// what EdgeHost.RelayLinks of tests/cluster returns.
	Root, Edge string
	// Up and Down are the first settings.
	Up, Down Settings
	// Seed makes loss and jitter repeatable.
	Seed uint64
}

// Relay joins two links.
type Relay struct {
	root, edge *port
	pipes      [2]*pipe // by Direction
	log        *slog.Logger
}

// New opens both links; from here on their frames wait for Start. It needs CAP_NET_ADMIN and CAP_NET_RAW.
func New(cfg Config, log *slog.Logger) (*Relay, error) {
	for d, s := range map[Direction]Settings{Up: cfg.Up, Down: cfg.Down} {
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("make a relay: settings %s: %w", d, err)
		}
	}
	if cfg.Root == cfg.Edge {
		return nil, fmt.Errorf("make a relay: expected two links, found %q twice", cfg.Root)
	}
	r := &Relay{log: log}
	r.pipes[Up], r.pipes[Down] = newPipe(cfg.Up, cfg.Seed, uint64(Up)), newPipe(cfg.Down, cfg.Seed, uint64(Down))
	var err error
	if r.root, err = openPort(cfg.Root); err != nil {
		return nil, fmt.Errorf("make a relay: %w", err)
	}
	if r.edge, err = openPort(cfg.Edge); err != nil {
		r.root.close()
		return nil, fmt.Errorf("make a relay: %w", err)
	}
	return r, nil
}

// Start relays until ctx is done, then drops what it holds and closes the links; a Relay is started once. It ends
// with ErrLinkGone when one of the links was removed; a link that is only down loses frames and comes back.
func (r *Relay) Start(ctx context.Context) error {
	defer r.root.close()
	defer r.edge.close()
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return r.receive(Down, r.root) })
	group.Go(func() error { return r.receive(Up, r.edge) })
	group.Go(func() error { return r.send(inner, Down, r.edge) })
	group.Go(func() error { return r.send(inner, Up, r.root) })
	group.Go(func() error {
		<-inner.Done()
		r.root.closeSocket()
		r.edge.closeSocket()
		return nil
	})
	r.log.Info("relay joins two links", "root", r.root.name, "edge", r.edge.name)
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("relay between %s and %s: %w", r.root.name, r.edge.name, err)
}

// receive puts what arrives on a link into the pipe of a direction.
func (r *Relay) receive(d Direction, from *port) error {
	buffer := make([]byte, maxFrame)
	for {
		n, err := from.socket.Read(buffer)
		if err == nil {
			r.pipes[d].put(time.Now(), buffer[:n])
			continue
		}
		// A link that goes down says so once; the socket receives again when it is up.
		if !errors.Is(err, syscall.ENETDOWN) {
			return fmt.Errorf("receive %s: %w", d, err)
		}
		if err := from.alive(); err != nil {
			return err
		}
		r.log.Info("a link of the relay is down", "link", from.name)
	}
}

// send takes what is due from the pipe of a direction and puts it on a link.
func (r *Relay) send(ctx context.Context, d Direction, to *port) error {
	p := r.pipes[d]
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		data, wait := p.take(time.Now())
		if data == nil {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-p.wake:
			case <-timer.C:
			}
			continue
		}
		_, err := to.socket.Write(data)
		p.done(data, err == nil)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		// Anything else costs this frame only, as on a real network. A link that is gone ends its receiver.
	}
}

// Set changes a direction's settings while frames pass. Frames on the cable arrive when they would have; those that
// wait for transmission get the new settings.
func (r *Relay) Set(d Direction, s Settings) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("set the relay %s: %w", d, err)
	}
	r.pipes[d].set(time.Now(), s)
	return nil
}

// SetBoth is Set for both directions.
func (r *Relay) SetBoth(s Settings) error {
	if err := r.Set(Up, s); err != nil {
		return err
	}
	return r.Set(Down, s)
}

// Counters tells what became of the frames of a direction. Missed is not up to date once the relay has ended.
func (r *Relay) Counters(d Direction) Counters {
	from := r.root
	if d == Up {
		from = r.edge
	}
	if n, err := from.takeMissed(); err == nil {
		r.pipes[d].missed(n)
	}
	return r.pipes[d].counters()
}
