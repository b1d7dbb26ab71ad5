package fleet

import (
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

// Stall has n of the connected edges, chosen at random, read nothing from the hub for d, and returns their names at once.
// Their own writes go on. One that stalls for longer than three pings and a second takes the hub for dead.
func (f *Fleet) Stall(n int, d time.Duration) (names []string) {
	all := f.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	until := f.deps.Now().Add(d)
	for _, e := range all {
		if len(names) < n && e.link.Status().Connected {
			e.mu.Lock()
			e.stalled = until
			e.mu.Unlock()
			names = append(names, e.name)
		}
	}
	return names
}

// stalling is a stream from which nothing is read while its edge stalls.
type stalling struct {
	transport.Stream
	edge *edge
}

func (s stalling) Read(p []byte) (int, error) {
	// What a Read that was waiting already brings is kept back too.
	n, err := s.Stream.Read(p)
	s.edge.mu.Lock()
	until := s.edge.stalled
	s.edge.mu.Unlock()
	if wait := until.Sub(s.edge.fleet.deps.Now()); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.edge.over:
		}
	}
	return n, err
}
