// Command chaos runs seeds of tests/chaos. `make chaos` runs a short one, `make chaos SEEDS=20` whole ones, one after the
// other: those that the file of results has already, of the same commit, are not run again. It needs root, as the
// quickstart does.
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
	"slices"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/tether-edge/tether/tests/chaos"
	"github.com/tether-edge/tether/tests/cluster"
)

func main() {
	// client-go says there what becomes of streams whose end is a part of the game.
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err == nil:
	case interrupted:
		fmt.Fprintln(os.Stderr, "\ninterrupted; everything that was running is gone")
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	seed, seeds uint64
	slots       int
	only        []string
	results     string
	commit      string
	docs        string
	mutants     string
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Uint64Var(&o.seed, "seed", 1, "the seed to run, or the first of several")
	flags.Uint64Var(&o.seeds, "seeds", 1, "how many seeds to run")
	flags.IntVar(&o.slots, "slots", 0, "end each seed after so many slots, each with one fault or two; 0 for all that the seed draws")
	only := flags.String("only", "", "faults to draw from, separated by commas: "+strings.Join(chaos.Names(), ", "))
	flags.StringVar(&o.results, "results", "", "file that results are appended to (default .tether/chaos.jsonl)")
	flags.StringVar(&o.commit, "commit", "", "what is under test, for the results")
	flags.StringVar(&o.docs, "write-docs", "", "run nothing, and write the results into this Markdown page, between its markers")
	flags.StringVar(&o.mutants, "mutants", "", "break Tether without one of its mechanisms, and see whether the suite notices: all, or names separated by commas")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("expected flags only, found %q", flags.Args())
	}
	if o.seed == 0 || o.seeds == 0 || o.slots < 0 {
		return o, fmt.Errorf("expected seed and seeds of 1 or more and slots of 0 or more, found %d, %d and %d", o.seed, o.seeds, o.slots)
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	return o, nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return err
	}
	if o.results == "" {
		o.results = filepath.Join(root, ".tether", "chaos.jsonl")
	}
	if err := os.MkdirAll(filepath.Dir(o.results), 0o755); err != nil {
		return fmt.Errorf("keep the results: %w", err)
	}
	past, err := chaos.Results(o.results)
	if err != nil {
		return err
	}
	if o.docs != "" {
		return chaos.WriteDocs(o.docs, past)
	}
	if o.mutants != "" {
		return breakMutants(ctx, root, o, out)
	}
	var failed []uint64
	for seed := o.seed; seed < o.seed+o.seeds; seed++ {
		known := slices.ContainsFunc(past, func(r chaos.Result) bool {
			return r.Seed == seed && r.Commit == o.commit && o.commit != "" && !r.Short && r.Failure == ""
		})
		if known && o.slots == 0 && len(o.only) == 0 && o.seeds > 1 {
			fmt.Fprintf(out, "seed %d: passed already, see %s\n", seed, o.results)
			continue
		}
		result, err := chaos.Run(ctx, chaos.Config{Seed: seed, Slots: o.slots, Only: o.only, Base: filepath.Join(os.TempDir(), "tether-chaos"),
			Logs: filepath.Join(filepath.Dir(o.results), "chaos"), Out: out})
		if ctx.Err() != nil || len(result.Slots) == 0 && err != nil {
			return err
		}
		result.Commit = o.commit
		if err := result.Append(o.results); err != nil {
			return err
		}
		if err != nil {
			failed = append(failed, seed)
			fmt.Fprintf(out, "seed %d failed. To run it again: %s\n", seed, o.again(seed))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("seeds %v failed; their timelines are above and in %s", failed, o.results)
	}
	return nil
}

// mutantTries is how many seeds a mutant may pass before it counts as not noticed.
const mutantTries = 2

func breakMutants(ctx context.Context, root string, o options, out io.Writer) error {
	bin, err := filepath.Abs(os.Getenv(cluster.BinEnv))
	if err != nil || os.Getenv(cluster.BinEnv) == "" {
		return fmt.Errorf("expected the programs in $%s, as make chaos-mutants sets it: %w", cluster.BinEnv, errors.Join(err))
	}
	var names []string
	if o.mutants != "all" {
		names = strings.Split(o.mutants, ",")
	}
	return chaos.BreakAll(ctx, chaos.Config{Seed: o.seed, Base: filepath.Join(os.TempDir(), "tether-chaos"), Out: out}, names, bin, filepath.Join(root, ".tether", "mutants"), mutantTries)
}

// again is the command line that repeats a seed.
func (o options) again(seed uint64) string {
	s := fmt.Sprintf("make chaos SEED=%d", seed)
	if o.slots > 0 {
		s += fmt.Sprintf(" SLOTS=%d", o.slots)
	} else {
		s += " SLOTS=0"
	}
	if len(o.only) > 0 {
		s += " ONLY=" + strings.Join(o.only, ",")
	}
	return s
}
