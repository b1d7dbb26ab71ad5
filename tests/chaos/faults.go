package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// fault is one fault under way.
type fault struct {
	// ctx ends with the run, done when the fault is to end.
	ctx, done context.Context
	w         *world
	load      *workload
	rand      *rand.Rand
}

// Faults is the table of all faults, by class.
func Faults() []Fault {
	return slices.Concat(linkFaults(), outsideFaults(), cloudFaults(), versionFaults(), edgeFaults(), memoryFaults(), pressureFaults(), pluginFaults(), clockFaults(), objectFaults(), collectedFaults(), identityFaults())
}

// repeat calls f every so often until the fault is to end, and then returns what f returned last.
func (f *fault) repeat(every time.Duration, do func() error) error {
	for {
		if err := do(); err != nil {
			return err
		}
		if !f.wait(every) {
			return nil
		}
	}
}

// wait waits, and returns false if the fault is to end meanwhile.
func (f *fault) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.done.Done():
		return false
	case <-t.C:
		return true
	}
}

// left is how long the fault has to last yet.
func (f *fault) left() time.Duration {
	end, _ := f.done.Deadline()
	return time.Until(end)
}

// until polls do until it returns nil or the time is over.
func until(ctx context.Context, limit time.Duration, what string, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := do()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the question that the deadline cut short says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s in vain: %w", limit, what, errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}

// nothing is the end of a fault that is over by itself.
func nothing() error { return nil }
