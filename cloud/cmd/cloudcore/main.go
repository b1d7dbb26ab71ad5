// Command cloudcore is Tether's cloud side: it streams each edge node's desired state to it; see package cloudcore.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/cloudcore"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/version"
)

func main() {
	os.Exit(run.Program{
		Name: "cloudcore", Version: version.String("cloudcore"), Config: "/etc/tether/cloudcore.yaml", Load: load,
		PrintDefaults: func(w io.Writer) error { return v1alpha1.Print(w, v1alpha1.DefaultCloudCore()) },
	}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

func load(path string) (level, format string, start func(context.Context, *slog.Logger) error, err error) {
	cfg, err := v1alpha1.LoadCloudCore(path)
	if err != nil {
		return "", "", nil, err
	}
	return cfg.Log.Level, cfg.Log.Format, func(ctx context.Context, log *slog.Logger) error {
		c, err := cloudcore.New(cfg, cloudcore.Deps{Log: log})
		if err != nil {
			return err
		}
		return c.Start(ctx)
	}, nil
}
