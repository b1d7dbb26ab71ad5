package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/fleet"
)

// prefix begins the names of all nodes.
const prefix = "fleet"

// process is a process of simulated edges, on a network of its own behind a cable.
type process struct {
	*cluster.Process
	*fleet.Remote
	host    *cluster.EdgeHost
	size    int // the most edges in it
	servers []link.Server
}

// edgeCA writes the cluster's edge CA into a directory: ten thousand joins would measure something else.
func (w *world) edgeCA(ctx context.Context) (string, error) {
	a, err := trust.New(w.Admin, time.Now).CA(ctx)
	if err != nil {
		return "", err
	}
	dir := w.path("fleet-pki")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("write the fleet's CA: %w", err)
	}
	return dir, a.CA.Save(dir)
}

// servers are those of all hubs.
func (w *world) servers() (all []link.Server) {
	for _, h := range w.hubs {
		all = append(all, link.Server{WebSocket: h.webSocket, QUIC: h.quic})
	}
	return all
}

// connect makes sure that n edges that know all hubs are there and synced, and at rest: nothing waits for the cloud. took is
// the time from the first new dial until the last edge was connected, in the slowest process; 0 if all were there.
func (w *world) connect(ctx context.Context, n int) (took time.Duration, err error) {
	if len(w.fleets) > 0 && !slices.Equal(w.fleets[0].servers, w.servers()) {
		if err := w.disconnect(ctx); err != nil {
			return 0, err
		}
	}
	if len(w.fleets) == 0 {
		if err := w.startFleets(ctx); err != nil {
			return 0, err
		}
	}
	w.say("connecting %d edges", n)
	times := make([]time.Duration, len(w.fleets))
	group, gctx := errgroup.WithContext(ctx)
	left := n
	for i, p := range w.fleets {
		share := min(left, p.size)
		left -= share
		group.Go(func() error {
			// The edges live as long as their process, whatever becomes of the request.
			g, err := p.Grow(gctx, share)
			times[i] = g.Took
			return err
		})
	}
	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	for waiting := true; waiting; {
		select {
		case err = <-done:
			waiting = false
		case <-time.After(5 * time.Second):
			if s, err := w.status(ctx); err == nil {
				w.say("%d edges connected, %d synced", s.Connected, s.Synced)
			}
		}
	}
	if err != nil {
		return 0, err
	}
	return slices.Max(times), w.settled(ctx, n)
}

// startFleets starts the processes, each on a host of its own, which it keeps.
func (w *world) startFleets(ctx context.Context) error {
	count := (w.cfg.Nodes + w.cfg.PerProcess - 1) / w.cfg.PerProcess
	for i := range count {
		name := fmt.Sprintf("fleet-%d", i)
		h := w.cluster.Host(name)
		var err error
		if h == nil {
			if h, err = w.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: name, Bare: true}); err != nil {
				return err
			}
		}
		first := i * w.cfg.PerProcess
		run := fleet.Process{Socket: w.path(name + ".sock"), PKI: w.pki, Config: fleet.Config{Host: pki.ServerName, Protocol: w.cfg.Protocol, Prefix: prefix, First: first,
			Servers: w.servers(), PingInterval: w.cfg.PingInterval}}
		p, err := h.Start(cluster.ProcessConfig{Name: name, Argv: append(slices.Clone(w.cfg.Self), run.Args()...)})
		if err != nil {
			return err
		}
		w.fleets = append(w.fleets, &process{Process: p, Remote: fleet.NewRemote(run.Socket), host: h, size: min(w.cfg.PerProcess, w.cfg.Nodes-first), servers: w.servers()})
	}
	for _, p := range w.fleets {
		err := w.until(ctx, "the simulated edges to answer", func(ctx context.Context) error {
			if !p.Alive() {
				return fmt.Errorf("their process has ended: %s", p.LogTail(5))
			}
			_, err := p.Status(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// disconnect ends the processes.
func (w *world) disconnect(ctx context.Context) error {
	for _, p := range w.fleets {
		if err := p.Stop(time.Minute); err != nil {
			return err
		}
	}
	w.fleets = nil
	return w.until(ctx, "the hub to have no session", func(ctx context.Context) error {
		n, err := w.sessions(ctx, w.hubs...)
		if err == nil && n > 0 {
			err = fmt.Errorf("it has %d", n)
		}
		return err
	})
}

// sessions are how many some hubs have.
func (w *world) sessions(ctx context.Context, hubs ...*hub) (n int, err error) {
	for _, h := range hubs {
		s, err := scrape(ctx, h.metrics)
		if err != nil {
			return 0, err
		}
		n += int(s.sum("tether_hub_sessions"))
	}
	return n, nil
}

// status adds up that of all processes.
func (w *world) status(ctx context.Context) (all fleet.Status, err error) {
	all.Servers = map[string]int{}
	for _, p := range w.fleets {
		s, err := p.Status(ctx)
		if err != nil {
			return all, err
		}
		all.Edges, all.Connected, all.Synced = all.Edges+s.Edges, all.Connected+s.Connected, all.Synced+s.Synced
		all.Lost, all.Dials, all.Queued = all.Lost+s.Lost, all.Dials+s.Dials, all.Queued+s.Queued
		for server, n := range s.Servers {
			all.Servers[server] += n
		}
		if s.LastError != "" {
			all.LastError = s.LastError
		}
	}
	return all, nil
}

// silent is how many sessions may end though nobody ended them: none, but for small runs, in which edges ping so often that a
// machine with other work may have no time for a few.
func (w *world) silent() float64 {
	if w.cfg.Small {
		return float64(w.cfg.Nodes) / 20
	}
	return 0
}

// synced waits until n edges are, and returns when they were found to be.
func (w *world) synced(ctx context.Context, n int) (time.Time, error) {
	err := w.until(ctx, "every edge to be synced", func(ctx context.Context) error {
		s, err := w.status(ctx)
		if err == nil && s.Synced < n {
			err = fmt.Errorf("%d of %d are connected, %d synced; the last error: %s", s.Connected, n, s.Synced, s.LastError)
		}
		return err
	})
	return time.Now(), err
}

// settled waits until n edges are synced and nothing waits to be written.
func (w *world) settled(ctx context.Context, n int) error {
	return w.until(ctx, "every edge to be synced and to have written all", func(ctx context.Context) error {
		s, err := w.status(ctx)
		if err == nil && (s.Synced < n || s.Queued > 0) {
			err = fmt.Errorf("%d of %d are synced, %d writes wait; the last error: %s", s.Synced, n, s.Queued, s.LastError)
		}
		return err
	})
}

// committed waits until every edge has committed what the question is for, and returns when each had, by node.
func (w *world) committed(ctx context.Context, q fleet.Question) (at map[string]time.Time, err error) {
	err = w.until(ctx, fmt.Sprintf("every edge to commit %s %s%s", q.Kind, q.Name, q.Prefix), func(ctx context.Context) error {
		at = map[string]time.Time{}
		missing := 0
		for _, p := range w.fleets {
			c, err := p.Commits(ctx, q)
			if err != nil {
				return err
			}
			missing += c.Missing
			for node, ns := range c.At {
				at[node] = time.Unix(0, ns)
			}
		}
		if missing > 0 {
			return fmt.Errorf("%d edges have not", missing)
		}
		return nil
	})
	return at, err
}

// beat has every edge report in all processes, and returns how many reports edges made.
func (w *world) beat(ctx context.Context, what string, interval, d time.Duration) (int, error) {
	counts := make([]int, len(w.fleets))
	group, gctx := errgroup.WithContext(ctx)
	for i, p := range w.fleets {
		group.Go(func() (err error) {
			counts[i], err = p.Beat(gctx, what, interval, d)
			return err
		})
	}
	err := group.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return total, err
}

// cut takes every cable out, and heal puts it in again.
func (w *world) cut() (err error) {
	for _, p := range w.fleets {
		err = errors.Join(err, p.host.Cut())
	}
	return err
}

func (w *world) heal(ctx context.Context) (err error) {
	for _, p := range w.fleets {
		err = errors.Join(err, p.host.Heal(ctx))
	}
	return err
}

// crossed are the bytes that crossed all cables, in both directions.
func (w *world) crossed() (bytes float64, err error) {
	for _, p := range w.fleets {
		n, err := linkBytes(p.host.RootLink())
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}
