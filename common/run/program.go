package run

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
)

// A Program is what the mains with a configuration file have in common: --config, --print-defaults, --version, a
// logger, signals and an exit code.
type Program struct {
	Name string
	// Version is the line that --version prints.
	Version string
	// Config is the default of --config.
	Config string
	// PrintDefaults writes a configuration to begin with.
	PrintDefaults func(io.Writer) error
	// Load reads the configuration and returns how to log and what to run until its context ends.
	Load func(path string) (level, format string, start func(context.Context, *slog.Logger) error, err error)
}

// Main runs the program and returns its exit code: 0 after a clean end, 1 after a failure, 2 for wrong arguments.
func (p Program) Main(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(errs)
	path := flags.String("config", p.Config, "configuration file")
	defaults := flags.Bool("print-defaults", false, "print the default configuration and exit")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(errs, "%s: expected flags only (see --help), found %q\n", p.Name, flags.Args())
		return 2
	}
	var err error
	switch {
	case *version:
		_, err = fmt.Fprintln(out, p.Version)
	case *defaults:
		err = p.PrintDefaults(out)
	default:
		err = p.start(*path, errs)
	}
	if err != nil {
		fmt.Fprintf(errs, "%s: %v\n", p.Name, err)
		return 1
	}
	return 0
}

func (p Program) start(path string, errs io.Writer) error {
	level, format, start, err := p.Load(path)
	if err != nil {
		return err
	}
	log, err := Logger(errs, level, format)
	if err != nil {
		return err
	}
	ctx, stop := Signals(context.Background())
	defer stop()
	return start(ctx, log)
}
