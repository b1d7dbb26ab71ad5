package upstream

import (
	"sync"
	"time"
)

// maxDenials bounds how many refused events are remembered, at about 100 bytes each.
const maxDenials = 20_000

type denialKey struct {
	node    string
	id      uint64
	created int64
}

// denials remembers since when each event is refused. The edge's clock may be wrong by years, so the hub's counts.
type denials struct {
	clock Clock
	limit time.Duration

	// mu guards since.
	mu    sync.Mutex
	since map[denialKey]time.Time
}

func newDenials(clock Clock, limit time.Duration) *denials {
	return &denials{clock: clock, limit: limit, since: map[denialKey]time.Time{}}
}

func keyOfDenial(j *job) denialKey {
	return denialKey{node: j.node, id: j.write.Id, created: j.write.CreatedUnixMs}
}

// tooLong notes a refusal and says whether they have gone on for the limit.
func (d *denials) tooLong(j *job) bool {
	now := d.clock.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	k := keyOfDenial(j)
	first, ok := d.since[k]
	if !ok {
		if len(d.since) >= maxDenials {
			d.prune(now)
		}
		d.since[k] = now
		return false
	}
	return now.Sub(first) >= d.limit
}

func (d *denials) forget(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.since, keyOfDenial(j))
}

// prune drops what no edge has asked about for long, and everything if that makes no room: an event is then tried
// for longer, never lost earlier.
func (d *denials) prune(now time.Time) {
	for k, t := range d.since {
		if now.Sub(t) > 2*d.limit {
			delete(d.since, k)
		}
	}
	if len(d.since) >= maxDenials {
		clear(d.since)
	}
}
