package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// What edges can be made to report.
const (
	BeatNodes   = "nodes"   // the Node's status, as a kubelet does every five minutes though nothing changed
	BeatPods    = "pods"    // a change in the status of each pod
	BeatDevices = "devices" // a new value of each device
)

// Beats lists them.
func Beats() []string { return []string{BeatNodes, BeatPods, BeatDevices} }

// Beat has every edge report once in each interval, the edges evenly spread over it, for about d. It returns how many times
// an edge reported, once the last has: what it reported may be on its way still.
func (f *Fleet) Beat(ctx context.Context, what string, interval, d time.Duration) (int, error) {
	all := f.all()
	if len(all) == 0 || interval <= 0 || !slices.Contains(Beats(), what) {
		return 0, fmt.Errorf("expected edges, an interval and one of %q, found %d, %s and %q", Beats(), len(all), interval, what)
	}
	total := max(1, int(float64(len(all))*d.Seconds()/interval.Seconds()))
	start, tick := time.Now(), time.NewTicker(look)
	defer tick.Stop()
	for done := 0; done < total; {
		due := min(total, 1+int(float64(len(all))*time.Since(start).Seconds()/interval.Seconds()))
		for ; done < due; done++ {
			if err := all[done%len(all)].store.beat(what); err != nil {
				return done, err
			}
		}
		if done == total {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return done, ctx.Err()
		}
	}
	return total, nil
}

// beat queues one report.
func (s *store) beat(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var writes []object.Outgoing
	var err error
	switch what {
	case BeatNodes:
		writes, err = s.kubelet.heartbeat()
	case BeatPods:
		writes, err = s.kubelet.podsAgain()
	case BeatDevices:
		writes, err = s.kubelet.devicesReport()
	}
	s.put(writes...)
	return err
}

// Counts are the numbers that the edges put into what they reported last, by edge.
func (f *Fleet) Counts() map[string]int {
	all := map[string]int{}
	for _, e := range f.all() {
		e.store.mu.Lock()
		all[e.name] = e.store.kubelet.count
		e.store.mu.Unlock()
	}
	return all
}
