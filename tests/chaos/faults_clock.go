package chaos

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// clockFaults set the clock of edgecore, but for its kubelet's, and of nothing else, while the cable is out; the agent is
// restarted under it, as after a boot without a network.
func clockFaults() []Fault {
	const promise = "The link comes back and puts the time right; no event that was made since the boot expires by it (of those before, a clock that is ahead takes some for expired, and counts them), and no value of a device loses to one of a wrong time."
	step := func(name, what string, offset func(now time.Time) time.Duration) Fault {
		return Fault{Name: name, Class: Edge, What: what, Promise: promise, Least: 8 * time.Second, Most: 20 * time.Second, Forgets: handful, Clock: true,
			begin: func(f *fault) (func() error, error) { return setClock(f, offset(time.Now())) }}
	}
	of := func(d time.Duration) func(time.Time) time.Duration { return func(time.Time) time.Duration { return d } }
	const year = 365 * 24 * time.Hour
	return []Fault{
		step("clock-hour-ahead", "The node's clock is an hour ahead from a boot on.", of(time.Hour)),
		step("clock-year-ahead", "The node's clock is a year ahead from a boot on.", of(year)),
		step("clock-year-behind", "The node's clock is a year behind from a boot on.", of(-year)),
		step("clock-1970", "The node's clock starts in 1970.", func(now time.Time) time.Duration { return -now.Sub(time.Unix(0, 0)) }),
	}
}

// clockFile holds the offset of edgecore's clock.
func (w *world) clockFile() string { return filepath.Join(w.cluster.Dir(), "clock") }

func setClock(f *fault, offset time.Duration) (func() error, error) {
	better, err := f.w.cable.worsen(trouble{out: true})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(f.w.clockFile(), []byte(offset.String()), 0o644); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	if err := f.w.killCore(); err != nil {
		return nil, err
	}
	// It stays wrong: nothing sets a gateway's clock but the link. The next restart has it right again.
	return func() error {
		if err := better(); err != nil {
			return err
		}
		err := until(f.ctx, restWithin, "the link to be back though the clock is wrong", func() error {
			s, err := f.w.status(f.ctx)
			if err == nil && !s.Link.Synced {
				err = fmt.Errorf("it is %+v", s.Link)
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := os.Remove(f.w.clockFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set the clock: %w", err)
		}
		return f.w.killCore()
	}, nil
}
