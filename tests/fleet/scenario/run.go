package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/host"
)

// Config says what to run. The zero value of a field takes the default named beside it.
type Config struct {
	// Nodes is how many edges there are (10,000).
	Nodes int
	// Scenarios are names (all of them), which run in the order of Names.
	Scenarios []string
	// Protocol carries the links (WebSocket).
	Protocol transport.Protocol
	// PerProcess is the most edges in one process (4,000): each has a file for its connection.
	PerProcess int
	// PingInterval is how often each edge pings (15 s).
	PingInterval time.Duration
	// Small makes rests and loads short.
	Small bool
	// Listeners gives each node its port for its kubelet. Each is a file of CloudCore, which so ends near 10,000 nodes.
	Listeners bool
	// Self is a command whose further arguments are those of fleet.Serve.
	Self []string
	// Base is a directory for clusters, of a short path: what a killed run left there is removed.
	Base string
	// Out is told of progress, and shown each outcome.
	Out io.Writer
	// Profiles is a directory for CPU profiles of the hub; empty for none.
	Profiles string
	// Commit is what is measured, for the results.
	Commit string
}

// named is one scenario.
type named struct {
	name, what string
	run        func(context.Context, *world) error
}

func all() []named {
	return []named{
		{"idle", "edges connect and rest", idle},
		{"storm", "all edges lose the hub at once: it is killed, and then a switch dies", storm},
		{"secret", "a ConfigMap and a Secret that every node uses change, also while some edges read nothing", secret},
		{"rollout", "a DaemonSet over every node", rollout},
		{"churn", "edges drop and come back", churn},
		{"status", "heartbeats, and pods whose status changes", status},
		{"devices", "devices report ten times a second", devices},
		{"replicas", "three CloudCores: one is killed, one stopped, one frozen", replicas},
	}
}

// Names lists the scenarios.
func Names() (names []string) {
	for _, s := range all() {
		names = append(names, s.name)
	}
	return names
}

// Run runs scenarios one after the other on one system, which is gone when it returns. A scenario that does not come to its
// end ends the run; what was measured until then is in the result. Limits that were missed are no error: see Result.Missed.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg.Nodes, cfg.PerProcess = orElse(cfg.Nodes, 10_000), orElse(cfg.PerProcess, 4_000)
	cfg.Protocol, cfg.PingInterval = orElse(cfg.Protocol, transport.WebSocket), orElse(cfg.PingInterval, 15*time.Second)
	if len(cfg.Scenarios) == 0 {
		cfg.Scenarios = Names()
	}
	for _, name := range cfg.Scenarios {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("expected scenarios out of %s, found %q", strings.Join(Names(), ", "), name)
		}
	}
	if cfg.Nodes < 10 {
		return nil, fmt.Errorf("expected 10 nodes or more, found %d", cfg.Nodes)
	}
	machine, err := host.Detect("/")
	if err != nil {
		return nil, err
	}
	if machine, err = host.Install(ctx, machine, cfg.Out, os.Stderr); err != nil {
		return nil, err
	}
	r := &Result{Commit: cfg.Commit, At: time.Now().UTC().Truncate(time.Second), Nodes: cfg.Nodes, Protocol: cfg.Protocol, Listeners: cfg.Listeners, Small: cfg.Small,
		Machine: fmt.Sprintf("%d cores, %s", runtime.NumCPU(), machine.PrettyName)}
	w, err := newWorld(ctx, cfg, machine)
	if err != nil {
		return r, err
	}
	for _, s := range all() {
		if slices.Contains(cfg.Scenarios, s.name) && err == nil {
			err = w.play(ctx, s, r)
		}
	}
	return r, w.down(err)
}

func orElse[T comparable](v, otherwise T) T {
	var none T
	if v == none {
		return otherwise
	}
	return v
}

// play runs one scenario and adds its outcome to the result.
func (w *world) play(ctx context.Context, s named, r *Result) error {
	w.outcome = &Outcome{Scenario: s.name}
	w.began = time.Now()
	w.say("%s: %s", s.name, s.what)
	err := s.run(ctx, w)
	o := w.outcome
	o.Seconds, o.Load = time.Since(w.began).Seconds(), load()
	if w.profiled != nil {
		p := <-w.profiled
		w.profiled, o.Profile = nil, p.text
		err = errors.Join(err, p.err)
	}
	if err != nil {
		o.Failure = err.Error()
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	r.Outcomes = append(r.Outcomes, *o)
	if !errors.Is(err, context.Canceled) {
		o.Table(w.cfg.Out)
	}
	return err
}
