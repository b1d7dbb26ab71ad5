// Command fleet puts simulated edges by the thousand through the scenarios of tests/fleet/scenario. `make fleet` runs it; it
// needs root, as the quickstart does.
//
// It promises that progress is told while it runs, that all figures are in JSON files, one a scenario, with those that were measured
// before a failure, that its exit code is 1 where a scenario failed or a limit was missed, and that it takes away all that it made,
// also when it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/fleet"
	"github.com/tether-edge/tether/tests/fleet/scenario"
)

// edgesVerb is the first argument by which fleet runs itself as the simulated edges.
const edgesVerb = "edges"

func main() {
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if args := os.Args[1:]; len(args) > 0 && args[0] == edgesVerb {
		err = fleet.Serve(ctx, args[1:])
	} else {
		err = run(ctx, args, os.Stdout)
	}
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err == nil:
	case interrupted:
		fmt.Fprintf(os.Stderr, "\ninterrupted: %v\n", err)
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "fleet: %v\n", err)
		os.Exit(1)
	}
}

// options say what to do beside running scenarios.
type options struct {
	results string // directory
	docs    string // page to write
	measure bool
}

func parse(args []string, out io.Writer) (cfg scenario.Config, o options, err error) {
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&cfg.Nodes, "nodes", 10_000, "how many edges")
	scenarios := flags.String("scenarios", "", "scenarios to run, separated by commas (default all): "+strings.Join(scenario.Names(), ", "))
	protocol := flags.String("protocol", string(transport.WebSocket), "what carries the links: websocket or quic")
	flags.IntVar(&cfg.PerProcess, "per-process", 4_000, "the most edges in one process: each has a file")
	flags.DurationVar(&cfg.PingInterval, "ping", 0, "how often each edge pings (default 15s)")
	flags.BoolVar(&cfg.Small, "small", false, "short rests and small loads: to try the scenarios, not for figures")
	flags.BoolVar(&cfg.Listeners, "listeners", false, "give each node its port for its kubelet, which is a file of CloudCore for each")
	flags.StringVar(&cfg.Commit, "commit", "", "what is measured, for the results")
	flags.StringVar(&o.results, "out", "", "directory for the results, a JSON file for each scenario (default .tether/fleet)")
	flags.StringVar(&o.docs, "write-docs", "", "also write the results of full runs that are in the directory into this Markdown page, between its markers; with --scenarios none, nothing is run")
	if err := flags.Parse(args); err != nil {
		return cfg, o, err
	}
	if flags.NArg() > 0 {
		return cfg, o, fmt.Errorf("expected flags only, found %q", flags.Args())
	}
	if cfg.Protocol = transport.Protocol(*protocol); cfg.Protocol != transport.WebSocket && cfg.Protocol != transport.QUIC {
		return cfg, o, fmt.Errorf("--protocol: expected %s or %s, found %q", transport.WebSocket, transport.QUIC, *protocol)
	}
	if cfg.Nodes < 1 || cfg.PerProcess < 1 || cfg.PingInterval < 0 {
		return cfg, o, fmt.Errorf("expected numbers above 0 for --nodes and --per-process and no negative --ping, found %d, %d and %s", cfg.Nodes, cfg.PerProcess, cfg.PingInterval)
	}
	if o.measure = *scenarios != "none"; o.measure && *scenarios != "" {
		cfg.Scenarios = strings.Split(*scenarios, ",")
	}
	return cfg, o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	cfg, o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return err
	}
	if o.results == "" {
		o.results = filepath.Join(root, ".tether", "fleet")
	}
	if o.measure {
		err = measure(ctx, cfg, o, root, out)
	}
	if o.docs != "" {
		err = errors.Join(err, writeDocs(o))
	}
	return err
}

func measure(ctx context.Context, cfg scenario.Config, o options, root string, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program of the edges: %w", err)
	}
	cfg.Self, cfg.Out, cfg.Base = []string{self, edgesVerb}, out, filepath.Join(os.TempDir(), "tether-fleet")
	cfg.Profiles = filepath.Join(root, ".tether", "profiles")
	r, err := scenario.Run(ctx, cfg)
	if r != nil && len(r.Outcomes) > 0 {
		err = errors.Join(err, r.Save(o.results))
		missed, promises := r.Missed()
		fmt.Fprintf(out, "\n%d scenarios on %s; all figures are in %s\n", len(r.Outcomes), r.Machine, o.results)
		if missed > 0 {
			err = errors.Join(err, fmt.Errorf("%d limits were missed, %d of them promises that hold on any machine: see MISSED above", missed, promises))
		}
	}
	return err
}

func writeDocs(o options) error {
	all, err := scenario.Load(o.results)
	if err != nil {
		return err
	}
	return scenario.WriteDocs(o.docs, all)
}
