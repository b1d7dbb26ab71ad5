// Command edgecore runs an edge node, with or without the cloud; see package edgecore.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/supervise"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/edge/edgecore"
	"github.com/tether-edge/tether/edge/edgecore/devices"
)

func main() {
	os.Exit(run.Program{
		Name: "edgecore", Version: version.String("edgecore"), Config: "/etc/tether/edgecore.yaml", Load: load,
		PrintDefaults: func(w io.Writer) error { return v1alpha1.Print(w, v1alpha1.DefaultEdgeCore()) },
	}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

func load(path string) (level, format string, start func(context.Context, *slog.Logger) error, err error) {
	cfg, err := v1alpha1.LoadEdgeCore(path)
	if err != nil {
		return "", "", nil, err
	}
	return cfg.Log.Level, cfg.Log.Format, func(ctx context.Context, log *slog.Logger) error {
		devices.RouteGRPC(log)
		c, err := edgecore.New(ctx, cfg, edgecore.Deps{Log: log, Built: version.Committed(), Killed: supervise.FormerWasKilled(),
			Supervised: supervise.Supervised(), Credentials: os.Getenv("CREDENTIALS_DIRECTORY")})
		if err != nil {
			return err
		}
		return c.Start(ctx)
	}, nil
}
