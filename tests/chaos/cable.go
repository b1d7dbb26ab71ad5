package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/netem"
)

// trouble is one thing that is wrong with the cable.
type trouble struct {
	up, down netem.Settings
	// out: the plug is out, and both ends see it.
	out bool
}

// cable is the edge's way to the cloud. Troubles of several faults add up.
type cable struct {
	host *cluster.EdgeHost
	log  *slog.Logger
	seed uint64

	mu       sync.Mutex
	troubles map[int]trouble
	next     int
	relay    *netem.Relay
	stop     func() error
}

// plug joins the ends of the cable, also after the host booted.
func (c *cable) plug() error {
	if err := errors.Join(netem.DisableOffload(c.host.RootLink()), c.host.Inside(false, func() error { return netem.DisableOffload("eth0") })); err != nil {
		return err
	}
	root, edge := c.host.RelayLinks()
	relay, err := netem.New(netem.Config{Root: root, Edge: edge, Seed: c.seed}, c.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- relay.Start(ctx) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.relay = relay
	c.stop = func() error {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, netem.ErrLinkGone) {
			return fmt.Errorf("the relay of the cable: %w", err)
		}
		return nil
	}
	return c.apply()
}

// unplug ends the relay.
func (c *cable) unplug() error {
	c.mu.Lock()
	stop := c.stop
	c.relay, c.stop = nil, nil
	c.mu.Unlock()
	if stop == nil {
		return nil
	}
	return stop()
}

// worsen adds a trouble until the returned function is called.
func (c *cable) worsen(t trouble) (better func() error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	c.troubles[id] = t
	return func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.troubles, id)
		return c.apply()
	}, c.apply()
}

// apply puts what all troubles make together into force. Without power there is no cable to do it to; plug does it then.
func (c *cable) apply() error {
	if c.relay == nil {
		return nil
	}
	var sum trouble
	for _, t := range c.troubles {
		sum = trouble{add(sum.up, t.up), add(sum.down, t.down), sum.out || t.out}
	}
	if err := errors.Join(c.relay.Set(netem.Up, sum.up), c.relay.Set(netem.Down, sum.down)); err != nil {
		return err
	}
	if sum.out {
		return c.host.Cut()
	}
	return c.host.Heal(context.Background())
}

// add is what two bad stretches of a cable make together.
func add(a, b netem.Settings) netem.Settings {
	s := netem.Settings{Delay: a.Delay + b.Delay, Jitter: a.Jitter + b.Jitter, Loss: 1 - (1-a.Loss)*(1-b.Loss), NoUDP: a.NoUDP || b.NoUDP, Rate: a.Rate}
	if a.Rate == 0 || b.Rate > 0 && b.Rate < a.Rate {
		s.Rate = b.Rate
	}
	return s
}
