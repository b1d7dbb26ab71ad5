// Command edgecore runs an edge node, with or without the cloud; see package edgecore.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/edge/edgecore"
)

func main() {
	path := flag.String("config", "/etc/tether/edgecore.yaml", "configuration file")
	defaults := flag.Bool("print-defaults", false, "print the default configuration and exit")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("expected flags only (see --help), found %q", flag.Args())
	case *showVersion:
		fmt.Println(version.String("edgecore"))
	case *defaults:
		err = v1alpha1.Print(os.Stdout, v1alpha1.DefaultEdgeCore())
	default:
		err = start(*path)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "edgecore: %v\n", err)
		os.Exit(1)
	}
}

func start(path string) error {
	cfg, err := v1alpha1.LoadEdgeCore(path)
	if err != nil {
		return err
	}
	return run.Main(cfg.Log.Level, cfg.Log.Format, func(ctx context.Context, log *slog.Logger) error {
		e, err := edgecore.New(ctx, cfg, edgecore.Deps{Log: log})
		if err != nil {
			return err
		}
		return e.Start(ctx)
	})
}
