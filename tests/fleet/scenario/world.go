package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
	"github.com/tether-edge/tether/tests/stack"
)

// patience bounds every wait for something that takes seconds on a machine at rest, for each thousand nodes.
const patience = 3 * time.Minute

// world is the system that the scenarios run on, one after the other.
type world struct {
	cfg Config
	*stack.Stack
	cluster *cluster.Cluster
	// hubs are the CloudCores that run; the first one is always there.
	hubs   []*hub
	fleets []*process
	pki    string

	outcome  *Outcome        // of the scenario that runs
	began    time.Time       // when it did
	profiled <-chan profiled // what its profile comes from, if one is under way
}

// hub is one CloudCore.
type hub struct {
	*cluster.Process
	webSocket, quic string
	metrics         string // URL
	ready           func(context.Context) error
}

// newWorld brings up a control plane with the Nodes of the fleet, and CloudCore. The caller calls down.
func newWorld(ctx context.Context, cfg Config, machine *host.Host) (w *world, err error) {
	w = &world{cfg: cfg, began: time.Now()}
	if err := cluster.Sweep(ctx, cfg.Base, cluster.Config{Host: machine}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Base, 0o755); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	dir, err := os.MkdirTemp(cfg.Base, "f")
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	if w.cluster, err = cluster.New(cluster.Config{Dir: dir, Host: machine}); err != nil {
		return nil, err
	}
	if err := w.bringUp(ctx); err != nil {
		return nil, w.down(err)
	}
	return w, nil
}

// controlPlaneArgs let the controllers and the scheduler make requests as fast as the operator of a large cluster lets them:
// by default they would make twenty a second, and that is what a rollout would measure.
func controlPlaneArgs() (args []string) {
	for _, component := range []string{"kube-controller-manager", "kube-scheduler"} {
		args = append(args, "--component-arg", component+"=--kube-api-qps=1000", "--component-arg", component+"=--kube-api-burst=2000")
	}
	return args
}

func (w *world) bringUp(ctx context.Context) error {
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return err
	}
	control, err := w.cluster.StartControlPlane(ctx, program, controlPlaneArgs()...)
	if err != nil {
		return err
	}
	if w.Stack, err = stack.New(ctx, w.cluster, control); err != nil {
		return err
	}
	err = w.ChangeCloud(func(cfg *v1alpha1.CloudCore) {
		cfg.Hub.MaxSessions = max(cfg.Hub.MaxSessions, w.cfg.Nodes)
		cfg.Metrics.Profiling = true // for whoever wants to know why
		cfg.Log.Level = "warn"       // two lines for each session would be most of what a storm writes
		if !w.cfg.Listeners {
			cfg.Tunnel.FirstPort, cfg.Tunnel.LastPort, cfg.Tunnel.DiscoveryPort = 0, 0, 0
		}
	})
	if err != nil {
		return err
	}
	w.say("the control plane runs: making %d nodes", w.cfg.Nodes)
	if err := w.makeNodes(ctx); err != nil {
		return err
	}
	if err := w.StartCloud(ctx); err != nil {
		return err
	}
	w.hubs = []*hub{{Process: w.Cloud, webSocket: w.Server(), quic: w.ServerOf(transport.QUIC), metrics: w.CloudMetrics(), ready: w.CloudReady}}
	w.pki, err = w.edgeCA(ctx)
	return err
}

// down removes the system and returns err, with the ends of the logs where there is one, and what could not be removed.
func (w *world) down(err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		for _, p := range w.cluster.Processes() {
			fmt.Fprintf(w.cfg.Out, "%s\n", p.LogTail(8))
		}
	}
	// The run may have been interrupted; what it made goes all the same.
	return errors.Join(err, w.cluster.Down(context.Background()))
}

// restart starts the first hub anew with another configuration, and waits until it lets edges in.
func (w *world) restart(ctx context.Context, change func(*v1alpha1.CloudCore)) error {
	if err := w.Cloud.Stop(20 * time.Second); err != nil {
		return err
	}
	if err := w.ChangeCloud(change); err != nil {
		return err
	}
	if err := w.Cloud.Restart(); err != nil {
		return err
	}
	return w.CloudReady(ctx)
}

// memory reads the first hub's.
func (w *world) memory(ctx context.Context) (memory, error) {
	return readMemory(ctx, w.hubs[0].PID(), w.hubs[0].metrics)
}

// scrape reads the first hub's metrics.
func (w *world) scrape(ctx context.Context) (series, error) { return scrape(ctx, w.hubs[0].metrics) }

// pick is a time for a full run or for a small one.
func (w *world) pick(full, small time.Duration) time.Duration {
	if w.cfg.Small {
		return small
	}
	return full
}

// rest waits for d: a part of a method, not for a condition.
func (w *world) rest(ctx context.Context, d time.Duration) error {
	if d >= 10*time.Second {
		w.say("resting for %s", d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limit bounds a wait for something that every node does.
func (w *world) limit() time.Duration { return patience * time.Duration(1+w.cfg.Nodes/1000) }

// until asks until the answer is nil, and tells the last answer every five seconds, and when it has waited too long.
func (w *world) until(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.limit())
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	said := time.Now()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the question that the deadline cut short says nothing
			last = err
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			w.say("waiting for %s: %v", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w: %w", what, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// say tells progress.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.cfg.Out, "%6.1f s  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

// figure adds one that only explains.
func (w *world) figure(what, unit string, value float64, note ...string) {
	w.add(Figure{What: what, Unit: unit, Value: value}, note)
}

// target adds one that is to be limit at most on a machine of the size that the targets are for.
func (w *world) target(what, unit string, value, limit float64, note ...string) {
	w.add(Figure{What: what, Unit: unit, Value: value, Limit: &limit}, note)
}

// promise adds one that is to be limit at most on any machine.
func (w *world) promise(what, unit string, value, limit float64, note ...string) {
	w.add(Figure{What: what, Unit: unit, Value: value, Limit: &limit, Promise: true}, note)
}

// unloaded adds one that is a promise of a small run, and a target of a full one, where the cores are so busy with the control plane that
// sessions or Leases end.
func (w *world) unloaded(what, unit string, value, limit float64, note ...string) {
	w.add(Figure{What: what, Unit: unit, Value: value, Limit: &limit, Promise: w.cfg.Small}, note)
}

func (w *world) add(f Figure, note []string) {
	if len(note) > 0 {
		f.Note = note[0]
	}
	w.outcome.Figures = append(w.outcome.Figures, f)
}

// path is a file of the cluster.
func (w *world) path(name string) string { return filepath.Join(w.cluster.Dir(), name) }
