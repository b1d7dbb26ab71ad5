// Command cloudcore is Tether's cloud side: it streams each edge node's desired state to it; see package cloudcore.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/cloudcore"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/version"
)

func main() {
	path := flag.String("config", "/etc/tether/cloudcore.yaml", "configuration file")
	defaults := flag.Bool("print-defaults", false, "print the default configuration and exit")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("expected flags only (see --help), found %q", flag.Args())
	case *showVersion:
		fmt.Println(version.String("cloudcore"))
	case *defaults:
		err = v1alpha1.Print(os.Stdout, v1alpha1.DefaultCloudCore())
	default:
		err = start(*path)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cloudcore: %v\n", err)
		os.Exit(1)
	}
}

func start(path string) error {
	cfg, err := v1alpha1.LoadCloudCore(path)
	if err != nil {
		return err
	}
	return run.Main(cfg.Log.Level, cfg.Log.Format, func(ctx context.Context, log *slog.Logger) error {
		c, err := cloudcore.New(cfg, cloudcore.Deps{Log: log})
		if err != nil {
			return err
		}
		return c.Start(ctx)
	})
}
