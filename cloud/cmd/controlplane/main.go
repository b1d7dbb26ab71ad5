// Command controlplane runs a stock Kubernetes control plane for a machine that
// has none; see package controlplane.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/tether-edge/tether/cloud/controlplane"
	"github.com/tether-edge/tether/common/version"
)

func main() {
	if controlplane.IsComponent(os.Args[1:]) {
		os.Exit(controlplane.RunComponent(os.Args[1:]))
	}
	cfg, flags := controlplane.DefaultConfig(), pflag.NewFlagSet("controlplane", pflag.ContinueOnError)
	cfg.AddFlags(flags)
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(os.Args[1:]); errors.Is(err, pflag.ErrHelp) {
		return
	} else if err != nil || flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "controlplane: expected flags (see --help), found %q: %v\n", os.Args[1:], err)
		os.Exit(2)
	}
	if *showVersion {
		fmt.Println(version.String("controlplane"))
		return
	}
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := controlplane.New(cfg, controlplane.Deps{Log: log, Progress: os.Stdout}).Start(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "controlplane: %v\n", err)
		os.Exit(1)
	}
}
