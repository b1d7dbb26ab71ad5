package replica

import "time"

const (
	// every is the time between two words of a CloudCore; one is gone that has said nothing for three times as long.
	every  = 10 * time.Second
	silent = 3 * every
	// forgotten is how long nothing was heard of a CloudCore whose Lease is removed.
	forgotten = 10 * time.Minute
	// A CloudCore begins to move edges when it has a tenth more than an even share, and goes on until it has no more than that; slack edges
	// more are let be in either case.
	slack = 5
	// atOnce is how many it moves at one look, or a tenth of what it has if that is more.
	atOnce = 25
)

// A peer is another CloudCore. Its own clock says nothing: what counts is when its Lease was seen to change.
type peer struct {
	renewed time.Time // as its Lease says
	changed time.Time // when that was seen
	lives   bool      // it was seen to change
	version string    // the resourceVersion of its Lease
	load
}

// A load is how many sessions a CloudCore has, and how many it takes; 0 where it did not say.
type load struct{ sessions, most int }

// peers are the other CloudCores by the names of their Leases. It is not safe for concurrent use.
type peers map[string]*peer

// saw takes note of a Lease as it is at the moment now, of that resourceVersion.
func (p peers) saw(name, version string, renewed time.Time, has load, now time.Time) {
	known := p[name]
	if known == nil {
		p[name] = &peer{renewed: renewed, changed: now, version: version, load: has}
		return
	}
	known.version = version
	if !known.renewed.Equal(renewed) {
		known.renewed, known.changed, known.lives = renewed, now, true
	}
	known.load = has
}

// state says how many others run, how many sessions they have, and whether that is plain: not while one is late, or one has been
// seen once only, which may be what a CloudCore left behind that was killed.
func (p peers) state(now time.Time) (n, sessions int, plain bool) {
	plain = true
	for _, k := range p {
		age := now.Sub(k.changed)
		switch {
		case age >= silent:
			continue
		case !k.lives || age > every*3/2:
			plain = false
		}
		if k.lives {
			n++
			sessions += k.sessions
		}
	}
	return n, sessions, plain
}

// left returns the Leases whose CloudCores have been silent for so long that nobody will miss them, with their resourceVersions.
func (p peers) left(now time.Time) map[string]string {
	left := map[string]string{}
	for name, k := range p {
		if now.Sub(k.changed) >= forgotten {
			left[name] = k.version
		}
	}
	return left
}
