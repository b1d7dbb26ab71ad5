package scenario

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// standing is one reading of an idle hub.
type standing struct {
	memory
	sockets
	crossed float64
}

func (w *world) stand(ctx context.Context) (s standing, err error) {
	if s.memory, err = w.memory(ctx); err != nil {
		return s, err
	}
	if s.sockets, err = readSockets(); err != nil {
		return s, err
	}
	s.crossed, err = w.crossed()
	return s, err
}

// idle measures what connected edges cost while nothing happens: with none, a tenth of them and all.
func idle(ctx context.Context, w *world) error {
	rest := w.pick(time.Minute, time.Second)
	if err := w.idleWithoutLeases(ctx, rest/2); err != nil {
		return err
	}
	if err := w.rest(ctx, rest); err != nil {
		return err
	}
	none, err := w.stand(ctx)
	if err != nil {
		return err
	}
	var stands [2]standing
	sizes := [2]int{w.cfg.Nodes / 10, w.cfg.Nodes}
	for i, n := range sizes {
		took, err := w.connect(ctx, n)
		if err != nil {
			return err
		}
		if err := w.still(ctx); err != nil {
			return err
		}
		w.figure(fmt.Sprintf("edges connected, %d", n), "s", took.Seconds(), "from the first dial to the last Welcome, the edges' own work on the same cores included")
		if err := w.rest(ctx, rest); err != nil {
			return err
		}
		begun, err := w.stand(ctx)
		if err != nil {
			return err
		}
		if err := w.rest(ctx, rest); err != nil {
			return err
		}
		if stands[i], err = w.stand(ctx); err != nil {
			return err
		}
		w.figureIdle(n, none, begun, stands[i])
	}
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
	w.target("sessions lost while idle", "", float64(s.Lost), 0, "a machine that has no time for pings loses some")
	w.profile(ctx, rest/2) // nothing is read any more
	between := float64(sizes[1] - sizes[0])
	w.figure(fmt.Sprintf("memory of one more session, from %d to %d", sizes[0], sizes[1]), "KiB", (stands[1].resident-stands[0].resident)/1024/between)
	return nil
}

// figureIdle shows what n sessions cost, in all and each.
func (w *world) figureIdle(n int, none, begun, now standing) {
	what := func(s string) string { return fmt.Sprintf("%s, %d", s, n) }
	each := func(before, after float64) float64 { return (after - before) / 1024 / float64(n) }
	w.target(what("memory per session"), "KiB", each(none.resident, now.resident), 48, "resident, of the hub alone; what the caches hold of the Nodes was there before")
	w.figure(what("of which anonymous"), "KiB", each(none.anonymous, now.anonymous))
	w.figure(what("of which heap in use"), "KiB", each(none.heap, now.heap), "live objects and garbage that is not yet collected")
	w.figure(what("of which stacks"), "KiB", each(none.stacks, now.stacks))
	w.figure(what("of which the runtime's own"), "KiB", each(none.metadata, now.metadata))
	w.figure(what("goroutines per session"), "", (now.goroutines-none.goroutines)/float64(n))
	w.figure(what("files per session"), "", (now.files-none.files)/float64(n))
	w.figure(what("kernel's buffers per connection"), "KiB", each(none.buffers, now.buffers), "both ends, not in the hub's memory; only TCP is counted")
	w.figure(what("kernel's objects per connection"), "KiB", each(none.objects, now.objects), "both ends, files included, not in the hub's memory; 0 where the kernel does not tell")
	w.target(what("memory"), "MiB", now.resident/(1<<20), 1200)
	window := now.at.Sub(begun.at)
	w.target(what("idle CPU with Leases renewed"), "% of a core", 100*float64(now.cpu-begun.cpu)/float64(window), 30)
	w.figure(what("on the wire per session"), "B/min", (now.crossed-begun.crossed)/float64(n)/window.Minutes(), fmt.Sprintf("both directions, headers of TCP and IP included; a ping every %s", w.cfg.PingInterval))
}

// still waits until the hub has written all that the connecting of edges left to do, Leases apart: for ten seconds, in a small run for one.
func (w *world) still(ctx context.Context) error {
	last, since, quiet := -1.0, time.Now(), w.pick(10*time.Second, time.Second)
	return w.until(ctx, "the hub to have written what connecting left to do", func(ctx context.Context) error {
		s, err := w.scrape(ctx)
		if err != nil {
			return err
		}
		n := 0.0
		for _, verb := range []string{"patch", "create", "update", "delete"} {
			n += s.sum("tether_api_requests_total", fmt.Sprintf("verb=%q", verb)) - s.sum("tether_api_requests_total", fmt.Sprintf("verb=%q", verb), `resource="leases.coordination.k8s.io"`)
		}
		if n != last {
			last, since = n, time.Now()
		}
		if left := quiet - time.Since(since); left > 0 {
			return fmt.Errorf("it has written %.0f times, the last time less than %s ago", n, quiet)
		}
		return nil
	})
}

// idleWithoutLeases measures the CPU of a hub whose Leases last longer than the reading. The node controller is stopped meanwhile: it
// would miss the renewals, and what it then writes into each Node is work of the hub that no idle fleet makes.
func (w *world) idleWithoutLeases(ctx context.Context, window time.Duration) (err error) {
	const controllers = "kube-controller-manager"
	if err := w.Control.SignalComponent(controllers, syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Control.SignalComponent(controllers, syscall.SIGCONT)) }()
	rare := func(cfg *v1alpha1.CloudCore) {
		cfg.Lease = v1alpha1.Lease{RenewInterval: v1alpha1.Duration(5 * time.Minute), Duration: v1alpha1.Duration(10 * time.Minute)}
	}
	if err := w.disconnect(ctx); err != nil {
		return err
	}
	if err := w.restart(ctx, rare); err != nil {
		return err
	}
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	err = w.until(ctx, "every Lease to be claimed", func(ctx context.Context) error {
		s, err := w.scrape(ctx)
		if n := s.sum("tether_node_lease_renewals_total"); err == nil && int(n) < w.cfg.Nodes {
			err = fmt.Errorf("%.0f are", n)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := w.still(ctx); err != nil {
		return err
	}
	if err := w.rest(ctx, window); err != nil {
		return err
	}
	before, err := w.memory(ctx)
	if err != nil {
		return err
	}
	if err := w.rest(ctx, window); err != nil {
		return err
	}
	after, err := w.memory(ctx)
	if err != nil {
		return err
	}
	w.target(fmt.Sprintf("idle CPU, Lease renewals left out, %d", w.cfg.Nodes), "% of a core", 100*float64(after.cpu-before.cpu)/float64(after.at.Sub(before.at)), 10,
		"with the node controller stopped, which would miss the renewals and write to every Node")
	if err := w.disconnect(ctx); err != nil {
		return err
	}
	return w.restart(ctx, func(cfg *v1alpha1.CloudCore) { cfg.Lease = v1alpha1.DefaultCloudCore().Lease })
}
