package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
)

// row is one thing to measure.
type row struct {
	name string
	run  func(context.Context, *bench) error
}

// rows are in the order of docs/benchmarks.md.
func rows() []row {
	return []row{
		{"size", measureSizes},
		{"memory", measureMemory},
		{"limit", measureLimit},
		{"pods", measurePods},
		{"change", measureChange},
		{"burst", measureBurst},
		{"restart", measureRestart},
		{"drop", measureDrop},
		{"power", measurePower},
		{"sessions", measureSessions},
		{"join", measureJoin},
		{"tunnel", measureTunnel},
		{"share", measureShare},
		{"far", measureFar},
		{"report", measureReport},
		{"flood", measureFlood},
		{"wear", measureWear},
	}
}

func rowNames() []string {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	return names
}

// bench is one run.
type bench struct {
	options
	root    string
	machine *host.Host
	images  []images.Archive
	report  *Report
	out     io.Writer
	row     string // being measured
}

// measure runs the chosen rows and saves after each.
func measure(ctx context.Context, o options, root string, report *Report, out io.Writer) error {
	b := &bench{options: o, root: root, report: report, out: out}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, r := range rows() {
		wanted := false
		for _, name := range o.only {
			wanted = wanted || name == r.name
		}
		if !wanted {
			continue
		}
		start := time.Now()
		fmt.Fprintf(out, "== %s\n", r.name)
		b.row = r.name
		report.forget(r.name)
		if err := r.run(ctx, b); err != nil {
			return fmt.Errorf("row %s: %w", r.name, err)
		}
		if err := report.save(); err != nil {
			return err
		}
		fmt.Fprintf(out, "   %s took %s\n", r.name, time.Since(start).Round(time.Second))
	}
	return nil
}

// prepare finds what every row needs and removes what a killed run left.
func (b *bench) prepare(ctx context.Context) error {
	if os.Getenv(cluster.BinEnv) == "" {
		if err := os.Setenv(cluster.BinEnv, filepath.Join(b.root, "bin")); err != nil {
			return fmt.Errorf("name the directory of the programs: %w", err)
		}
	}
	machine, err := host.Detect("/")
	if err != nil {
		return err
	}
	if b.machine, err = host.Install(ctx, machine, b.out, os.Stderr); err != nil {
		return err
	}
	if err := b.machine.Usable(); err != nil {
		return err
	}
	if err := cluster.Sweep(ctx, clusterBase(), cluster.Config{Host: b.machine}); err != nil {
		return err
	}
	if b.images, err = cluster.Images(ctx); err != nil {
		return err
	}
	if b.report.Machine, err = describeMachine(ctx, b.machine); err != nil {
		return err
	}
	fmt.Fprintln(b.out, b.report.Machine)
	return nil
}

// clusterBase holds the clusters of all runs. Not below the source tree: a path may be too long for a socket.
func clusterBase() string { return filepath.Join(os.TempDir(), "tether-bench") }

// times is how often a row is repeated. long rows last minutes each time.
func (b *bench) times(long bool) int {
	switch {
	case b.repeat > 0:
		return b.repeat
	case b.quick:
		return 1
	case long:
		return 3
	}
	return 5
}

// rest waits for d, or for less in a quick run.
func (b *bench) rest(ctx context.Context, d time.Duration) error {
	if b.quick {
		d = min(d, 10*time.Second)
	}
	return wait(ctx, d)
}

// wait lasts d, for rests that are part of a method: it is no way to wait for a condition.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// figure adds a result and shows it.
func (b *bench) figure(f Figure) {
	f.Row, f.Load, f.Quick = b.row, load(), b.quick
	f.summarize()
	b.report.Figures = append(b.report.Figures, f)
	var values []string
	for _, v := range f.Values {
		values = append(values, number(v))
	}
	if len(values) > 10 {
		values = append(values[:10], "...")
	}
	fmt.Fprintf(b.out, "   %s: %s %s (%s) %s %s, load %s\n", f.What, number(f.Median), f.Unit, strings.Join(values, ", "), f.target(), f.verdict(), f.Load)
}

// until asks until the answer is nil, every interval, and tells the last answer when ctx or timeout ends.
func until(ctx context.Context, interval, timeout time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w: %w", timeout, what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
