// Command bench measures Tether on this machine: each row of docs/benchmarks.md against its target, into a JSON file and
// a table. `make bench` runs it; it needs root, as the quickstart does.
//
// It promises that the programs measured are the ones that `make build` made, run as an operator would run them; that
// what a figure is compared with is measured in the same run; that the machine's load is printed beside each figure;
// and that it takes away all that it made, also when it is interrupted. A figure that misses its target says so; it
// does not make bench fail.
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

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/fleet"
)

// fleetVerb is the first argument by which bench runs itself as the simulated edges.
const fleetVerb = "fleet"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if args := os.Args[1:]; len(args) > 0 && args[0] == fleetVerb {
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
	case interrupted && !errors.Is(err, errLeft):
		fmt.Fprintln(os.Stderr, "\ninterrupted; everything that was running is gone")
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	only   []string
	quick  bool
	repeat int
	out    string
	docs   string
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("only", "", "rows to measure, separated by commas: "+strings.Join(rowNames(), ", "))
	flags.BoolVar(&o.quick, "quick", false, "short rests and one repetition: to try the measurements, not for figures")
	flags.IntVar(&o.repeat, "repeat", 0, "repetitions of each row (default: 5 where they are cheap, 3 where they last minutes)")
	flags.StringVar(&o.out, "out", "", "JSON file for the figures (default .tether/bench.json); figures of other rows in it are kept")
	flags.StringVar(&o.docs, "write-docs", "", "also write the figures of the JSON file into this Markdown page, between its markers; with --only none, nothing is measured")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("expected flags only, found %q", flags.Args())
	}
	switch *only {
	case "":
		o.only = rowNames()
	case "none":
	default:
		o.only = strings.Split(*only, ",")
	}
	for _, name := range o.only {
		if !slices.Contains(rowNames(), name) {
			return o, fmt.Errorf("--only: expected some of %s, found %q", strings.Join(rowNames(), ", "), name)
		}
	}
	if o.repeat < 0 {
		return o, fmt.Errorf("--repeat: expected 0 or more, found %d", o.repeat)
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
	if o.out == "" {
		o.out = filepath.Join(root, ".tether", "bench.json")
	}
	report, err := loadReport(o.out)
	if err != nil {
		return err
	}
	if len(o.only) > 0 {
		if err := measure(ctx, o, root, report, out); err != nil {
			return err
		}
	}
	report.table(out)
	if o.docs != "" {
		return report.writeDocs(o.docs)
	}
	return nil
}
