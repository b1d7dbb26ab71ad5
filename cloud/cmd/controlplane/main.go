// Command controlplane runs a stock Kubernetes control plane for a machine that has none; see package controlplane.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/tether-edge/tether/cloud/controlplane"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/version"
)

func main() {
	if controlplane.IsComponent(os.Args[1:]) {
		os.Exit(controlplane.RunComponent(os.Args[1:]))
	}
	cfg, flags := controlplane.DefaultConfig(), pflag.NewFlagSet("controlplane", pflag.ExitOnError)
	cfg.AddFlags(flags)
	showVersion := flags.Bool("version", false, "print the version and exit")
	flags.Parse(os.Args[1:])
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "controlplane: expected flags only (see --help), found %q\n", flags.Args())
		os.Exit(2)
	}
	if *showVersion {
		fmt.Println(version.String("controlplane"))
		return
	}
	ctx, stop := run.Signals(context.Background())
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := controlplane.New(cfg, controlplane.Deps{Log: log, Progress: os.Stdout}).Start(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "controlplane: %v\n", err)
		os.Exit(1)
	}
}
