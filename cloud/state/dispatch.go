package state

import (
	"context"
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// A subscription is one View's wish to be told.
type subscription struct {
	node   *nodeState
	notify func([]object.Key)

	// The rest is guarded by dispatcher.mu.
	keys []object.Key
	set  map[object.Key]struct{}
	// busy: in the queue or being notified.
	busy, cancelled bool
}

// A dispatcher calls the subscribers from goroutines of its own, so that a slow one holds up no watch. What changes
// meanwhile is merged: a subscriber that does not keep up costs one entry per key.
type dispatcher struct {
	m *metrics
	// mu guards queue and what subscription says. It is never held while notify runs.
	mu    sync.Mutex
	cond  *sync.Cond
	queue []*subscription
}

func newDispatcher(m *metrics) *dispatcher {
	d := &dispatcher{m: m}
	d.cond = sync.NewCond(&d.mu)
	return d
}

func (d *dispatcher) add(list []dirty) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range list {
		s := x.sub
		if s.cancelled {
			continue
		}
		if _, dup := s.set[x.key]; dup {
			continue
		}
		if s.set == nil {
			s.set = map[object.Key]struct{}{}
		}
		s.set[x.key] = struct{}{}
		s.keys = append(s.keys, x.key)
		if !s.busy {
			s.busy = true
			d.queue = append(d.queue, s)
			d.cond.Signal()
		}
	}
}

func (d *dispatcher) cancel(s *subscription) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.cancelled, s.keys, s.set = true, nil, nil
}

// run notifies until ctx is done. Several may run at once; each subscriber is called by one at a time.
func (d *dispatcher) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cond.Broadcast()
	})
	defer stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for len(d.queue) == 0 && ctx.Err() == nil {
			d.cond.Wait()
		}
		if ctx.Err() != nil {
			return
		}
		s := d.queue[0]
		d.queue = d.queue[1:]
		if len(d.queue) == 0 {
			d.queue = nil
		}
		keys := s.keys
		s.keys, s.set = nil, nil
		if !s.cancelled && len(keys) > 0 {
			d.mu.Unlock()
			s.notify(keys)
			d.m.notifications.Inc()
			d.mu.Lock()
		}
		s.busy = len(s.keys) > 0
		if s.busy {
			d.queue = append(d.queue, s)
		}
	}
}

// Subscribe returns what one node sees, and has notify called with the keys whose content or visibility for that node
// may have changed after that. notify is called from goroutines of the Cache that hold no lock, one call at a time per
// subscription; it should be quick, and may use the View. A key may be reported without having changed.
//
// cancel ends the subscription; a call of notify may still be running when it returns, none begins after. The View is
// of no use then. A node may have several subscriptions.
func (c *Cache) Subscribe(node string, notify func([]object.Key)) (view *View, cancel func()) {
	s := &subscription{notify: notify}
	var ch changes
	c.mu.Lock()
	n := c.g.node(node)
	s.node = n
	n.subs = append(n.subs, s)
	c.g.subscribed[n] = struct{}{}
	if c.g.synced {
		c.g.gateNode(n, &ch)
	}
	c.mu.Unlock()
	c.publish(&ch)
	var once sync.Once
	return &View{c: c, n: n}, func() { once.Do(func() { c.unsubscribe(s) }) }
}

func (c *Cache) unsubscribe(s *subscription) {
	c.mu.Lock()
	n := s.node
	n.subs = slices.DeleteFunc(n.subs, func(o *subscription) bool { return o == s })
	if len(n.subs) == 0 {
		n.subs = nil
		delete(c.g.subscribed, n)
		c.g.dropNode(n)
	}
	c.mu.Unlock()
	c.disp.cancel(s)
}
