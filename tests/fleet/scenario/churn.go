package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// churn drops a hundredth of the edges every second, for ten minutes; a small run a tenth, for seconds.
func churn(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.rest(ctx, w.pick(30*time.Second, time.Second)); err != nil {
		return err
	}
	lasts, each, sample := 10*time.Minute, float64(w.cfg.Nodes)/100, 10*time.Second
	if w.cfg.Small {
		lasts, each, sample = 5*time.Second, float64(w.cfg.Nodes)/10, time.Second
	}
	begun, err := w.memory(ctx)
	if err != nil {
		return err
	}
	before, err := w.status(ctx)
	if err != nil {
		return err
	}
	var minutes, resident []float64
	dropped, start, sampled, said := 0, time.Now(), time.Now(), time.Now()
	w.profile(ctx, time.Minute)
	for asked := 0; time.Since(start) < lasts; {
		// As many as are due by now: what a second's work takes is no pause.
		due := int(each*(1+time.Since(start).Seconds())) - asked
		asked += due
		for i, p := range w.fleets {
			share := due / (len(w.fleets) - i)
			due -= share
			n, err := p.Drop(ctx, share)
			if err != nil {
				return err
			}
			dropped += n
		}
		if time.Since(said) > 30*time.Second {
			said = time.Now()
			w.say("%d connections ended", dropped)
		}
		if time.Since(sampled) > sample {
			sampled = time.Now()
			m, err := w.memory(ctx)
			if err != nil {
				return err
			}
			// The first third is for what grows once.
			if time.Since(start) > lasts/3 {
				minutes, resident = append(minutes, time.Since(start).Minutes()), append(resident, m.resident/(1<<20))
			}
		}
		if err := w.rest(ctx, time.Second); err != nil {
			return err
		}
	}
	if err := w.settled(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
	err = w.until(ctx, "the hub to have forgotten the sessions that ended", func(ctx context.Context) error {
		n, err := w.sessions(ctx, w.hubs...)
		m, failed := w.memory(ctx)
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		if grown := m.goroutines - begun.goroutines; n != w.cfg.Nodes || grown > 50 {
			return fmt.Errorf("it has %d sessions, and %.0f goroutines more than before", n, grown)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.figure("connections ended", "", float64(dropped), fmt.Sprintf("%.1f a second; an edge that had none when its turn came is passed over", float64(dropped)/lasts.Seconds()))
	w.promise("sessions lost beyond those", "", float64(s.Lost-before.Lost-dropped), w.silent())
	if !w.cfg.Small {
		w.target("memory of the hub grows", "MiB/min", slope(minutes, resident), 1, fmt.Sprintf("least squares over %d samples, the first third left out; %.0f MiB at first, %.0f at last",
			len(minutes), begun.resident/(1<<20), resident[len(resident)-1]))
	}
	return nil
}
