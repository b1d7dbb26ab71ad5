package main

import (
	"context"
	"fmt"
	"time"
)

// dropTime is how long the packets of the edge are dropped, and dropChanges how many changes wait meanwhile.
const (
	dropTime      = 90 * time.Second
	quickDropTime = 20 * time.Second
	dropChanges   = 20
)

// measureRestart kills cloudcore, starts it again at once, and makes a change at once.
func measureRestart(ctx context.Context, b *bench) error {
	m, err := b.mapsSystem(ctx, 1, nil)
	if err != nil {
		return err
	}
	var ready, flows []float64
	for range b.times(false) {
		if err := m.Cloud.Kill(); err != nil {
			return m.down(err)
		}
		start := time.Now()
		if err := m.Cloud.Restart(); err != nil {
			return m.down(err)
		}
		m.value++
		if _, _, err := setMap(ctx, m.Admin, 0, m.value); err != nil {
			return m.down(err)
		}
		if err := m.CloudReady(ctx); err != nil {
			return m.down(err)
		}
		ready = append(ready, time.Since(start).Seconds())
		seen, err := m.far.saw(ctx, mapName(0), m.value, readyTimeout)
		if err != nil {
			return m.down(err)
		}
		flows = append(flows, seen.Sub(start).Seconds())
		if err := b.rest(ctx, 5*time.Second); err != nil {
			return m.down(err)
		}
	}
	b.figure(Figure{What: "cloudcore killed: ready to accept edges again", Unit: "s", Values: ready})
	b.figure(Figure{What: "cloudcore killed: a new change is at the edge", Unit: "s", Limit: atMost(3), Values: flows})
	return m.down(nil)
}

// measureDrop swallows every packet of the edge for a while, during which ConfigMaps change.
func measureDrop(ctx context.Context, b *bench) error {
	m, err := b.mapsSystem(ctx, dropChanges, nil)
	if err != nil {
		return err
	}
	long := dropTime
	if b.quick {
		long = quickDropTime
	}
	var took []float64
	for range b.times(true) {
		seconds, err := m.drop(ctx, long)
		if err != nil {
			return m.down(err)
		}
		took = append(took, seconds)
	}
	b.figure(Figure{What: fmt.Sprintf("%s of dropped packets: %d changes are at the edge", long, dropChanges), Unit: "s", Limit: atMost(5), Values: took})
	return m.down(nil)
}

// drop returns how long after the cable was whole again the last change arrived.
func (m *mapsSystem) drop(ctx context.Context, long time.Duration) (seconds float64, err error) {
	if err := m.edge.Drop(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	m.value++
	for i := range dropChanges {
		if _, _, err := setMap(ctx, m.Admin, i, m.value); err != nil {
			return 0, err
		}
	}
	if err := wait(ctx, long-time.Since(begun)); err != nil {
		return 0, err
	}
	if err := m.edge.Heal(ctx); err != nil {
		return 0, err
	}
	healed := time.Now()
	last, err := m.far.sawAll(ctx, mapsAt(dropChanges, m.value), readyTimeout)
	if err != nil {
		return 0, err
	}
	if last.Before(healed) {
		// The last rule is gone before the command that removes it has ended.
		return 0, nil
	}
	return last.Sub(healed).Seconds(), nil
}
