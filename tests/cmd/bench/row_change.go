package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/tests/stack"
)

// changeMaps is how many ConfigMaps a pod mounts, and so how many changes of distinct keys one repetition makes.
const changeMaps = 100

// mapsSystem is a system whose edge sees ConfigMaps, and the watches on both of its ends.
type mapsSystem struct {
	*system
	edge  *stack.Edge
	far   *watcher // on the edge's own API
	near  *watcher // on the API server: a plain watch
	value int      // the last one written
	stop  context.CancelFunc
}

// mapsSystem brings it up with n ConfigMaps. The caller calls down.
func (b *bench) mapsSystem(ctx context.Context, n int, prepare func(string) error, args ...string) (*mapsSystem, error) {
	s, err := b.system(ctx, prepare, args...)
	if err != nil {
		return nil, err
	}
	m := &mapsSystem{system: s, stop: func() {}}
	if err := m.bring(ctx, n); err != nil {
		return nil, m.down(err)
	}
	return m, nil
}

func (m *mapsSystem) bring(ctx context.Context, n int) (err error) {
	if m.edge, err = m.system.edge(ctx, "edge-1"); err != nil {
		return err
	}
	if err := m.makeMaps(ctx, n, m.edge.Name()); err != nil {
		return err
	}
	local, err := localClient(m.edge)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	m.stop = stop
	m.far, m.near = watchMaps(watching, local, "the edge"), watchMaps(watching, m.Admin, "the API server")
	for _, w := range []*watcher{m.far, m.near} {
		if _, err := w.sawAll(ctx, mapsAt(n, 0), readyTimeout); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapsSystem) down(err error) error {
	m.stop()
	return m.system.down(err)
}

// measureChange changes ConfigMaps one by one and compares when the edge's own API shows each with when a plain watch
// of the API server does, both seen by this process through the same client library.
func measureChange(ctx context.Context, b *bench) error {
	m, err := b.mapsSystem(ctx, changeMaps, nil)
	if err != nil {
		return err
	}
	var c changes
	for range b.times(false) {
		if err := m.changeAll(ctx, &c); err != nil {
			return m.down(err)
		}
	}
	c.figures(b)
	return m.down(nil)
}

// changes are times in milliseconds; each is from the return of the write, unless it says otherwise.
type changes struct {
	write, near, far, farFromRequest, nearFromRequest []float64
}

func (m *mapsSystem) changeAll(ctx context.Context, c *changes) error {
	m.value++
	for i := range changeMaps {
		begun, done, err := setMap(ctx, m.Admin, i, m.value)
		if err != nil {
			return err
		}
		near, err := m.near.saw(ctx, mapName(i), m.value, readyTimeout)
		if err != nil {
			return err
		}
		far, err := m.far.saw(ctx, mapName(i), m.value, readyTimeout)
		if err != nil {
			return err
		}
		c.write = append(c.write, milliseconds(done.Sub(begun)))
		c.near = append(c.near, milliseconds(near.Sub(done)))
		c.far = append(c.far, milliseconds(far.Sub(done)))
		c.nearFromRequest = append(c.nearFromRequest, milliseconds(near.Sub(begun)))
		c.farFromRequest = append(c.farFromRequest, milliseconds(far.Sub(begun)))
		// The next change is a single one too.
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (c *changes) figures(b *bench) {
	show := func(what string, values []float64) {
		sorted := slices.Sorted(slices.Values(values))
		note := fmt.Sprintf("p50 %s, p90 %s, p99 %s of %d changes", number(percentile(sorted, 50)), number(percentile(sorted, 90)), number(percentile(sorted, 99)), len(sorted))
		b.figure(Figure{What: what, Unit: "ms", Values: values, Note: note})
	}
	show("one change: the write itself", c.write)
	show("one change: write's return to a plain watch", c.near)
	show("one change: write's return to edge commit", c.far)
	show("one change: request to a plain watch", c.nearFromRequest)
	show("one change: request to edge commit", c.farFromRequest)
	b.figure(Figure{What: "one change, edge over plain watch, from the request", Limit: atMost(2), Values: []float64{median(c.farFromRequest) / median(c.nearFromRequest)},
		Note: "a plain watch may show a change before the write returns, so the ratio is taken from the request"})
}
