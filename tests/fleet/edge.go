package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// leaseAge is the age of the kubelet's lease that each edge claims: that of a healthy one.
const leaseAge = 5 * time.Second

// edge is one simulated edge. Its goroutine owns all of it.
type edge struct {
	fleet *Fleet
	name  string
	tls   *tls.Config
	store *store

	welcomed, synced bool // in the present session
}

// run keeps the edge connected until ctx is done.
func (e *edge) run(ctx context.Context) {
	for {
		stream, err := e.fleet.dial(ctx, e.tls)
		if err == nil {
			err = e.serve(ctx, stream)
		}
		if !errors.Is(err, transport.ErrBusy) { // nothing is lost that had not begun
			e.ended(ctx, err)
		}
		// As a real edge does after a refusal or a lost connection: a while, and not all at the same time.
		pause := time.NewTimer(500*time.Millisecond + rand.N(2500*time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

func (e *edge) ended(ctx context.Context, err error) {
	e.fleet.update(func(s *Status) {
		if e.welcomed {
			s.Connected--
		}
		if e.synced {
			s.Synced--
		}
		if ctx.Err() == nil {
			s.Lost++
			s.LastError = fmt.Sprint(err)
		}
	})
	e.welcomed, e.synced = false, false
	if ctx.Err() == nil {
		e.fleet.deps.Log.Warn("session lost", "node", e.name, "error", err)
	}
}

// serve runs one session until it ends.
func (e *edge) serve(ctx context.Context, stream transport.Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer stream.Close()
	now := e.fleet.deps.Now
	machine := session.NewEdge(session.EdgeConfig{Node: e.name, Software: "fleet", Store: "fleet-" + e.name,
		PingInterval: e.fleet.cfg.PingInterval}, session.Held{Digests: e.store.digests(), NodeUID: e.store.nodeUID(), Epoch: e.store.epoch})
	frames, failed := make(chan *wire.Frame), make(chan error, 1)
	go read(ctx, stream, frames, failed)
	if err := e.do(machine, stream, machine.Start(now())); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		effects, next := machine.Poll(now(), session.Vitals{LeaseAge: leaseAge})
		if err := e.do(machine, stream, effects); err != nil {
			return err
		}
		timer.Reset(max(next.Sub(now()), time.Millisecond))
		select {
		case f := <-frames:
			effects, err := machine.Receive(now(), f)
			if err != nil {
				return err
			}
			if err := e.do(machine, stream, effects); err != nil {
				return err
			}
		case err := <-failed:
			return fmt.Errorf("read: %w", err)
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func read(ctx context.Context, stream transport.Stream, frames chan<- *wire.Frame, failed chan<- error) {
	for {
		f, err := wire.Read(stream, wire.MaxFrame)
		if err != nil {
			failed <- err
			return
		}
		select {
		case frames <- f:
		case <-ctx.Done():
			failed <- ctx.Err()
			return
		}
	}
}

// do carries out effects. What a commit brings forth is carried out after the rest.
func (e *edge) do(machine *session.Edge, stream transport.Stream, effects []session.Effect) error {
	for len(effects) > 0 {
		effect := effects[0]
		effects = effects[1:]
		switch effect := effect.(type) {
		case session.Send:
			if err := send(stream, effect.Frame); err != nil {
				return err
			}
		case session.Close:
			return fmt.Errorf("closed (%s): %s", effect.Reason, effect.Message)
		case session.Welcomed:
			e.store.epoch = effect.Frame.Epoch
			e.welcomed = true
			e.fleet.update(func(s *Status) { s.Connected++ })
		case session.SendInventory:
			for _, m := range e.store.inventory(effect.Kind) {
				if err := send(stream, &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}}); err != nil {
					return err
				}
			}
		case session.ApplyBatch:
			e.store.apply(effect.Batch)
			effects = append(effects, machine.Applied(effect.Batch.Seq)...)
		case session.MarkSynced:
			if !e.synced {
				e.synced = true
				e.fleet.update(func(s *Status) { s.Synced++ })
			}
		default:
			return errors.New("the session asked for a write or an answer, and this edge has neither")
		}
	}
	return nil
}

func send(stream transport.Stream, f *wire.Frame) error {
	b, err := wire.Append(nil, f)
	if err != nil {
		return err
	}
	if _, err := stream.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
