package upstream

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// A lane bounds what is under way to the API server of one sort, for all nodes and for each, so that no sort waits behind another. Those who wait
// hold nothing but their request as it came: it is decoded, and compared with the object as it is, once it has its turn. And the time that a
// request may take begins with its turn: one that is given up while the API server works on it costs that as much as one that is not,
// and a server that is behind would do nothing else in the end.
type lane struct {
	slots  chan struct{}
	shares *shares
	// waits are those who have no turn yet.
	waits prometheus.Gauge
}

func newLane(slots, perNode int, waits prometheus.Gauge) *lane {
	return &lane{slots: make(chan struct{}, max(slots, 1)), shares: newShares(perNode), waits: waits}
}

// enter waits for a turn of node's until ctx ends. The first to come is the first to enter, but for those of a node that has its share.
func (l *lane) enter(ctx context.Context, node string) (leave func(), err error) {
	l.waits.Inc()
	defer l.waits.Dec()
	give, err := l.shares.take(ctx, node)
	if err != nil {
		return nil, err
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		give()
		return nil, ctx.Err()
	}
	return func() { <-l.slots; give() }, nil
}
