package devices

import (
	"io"
	"log/slog"

	"google.golang.org/grpc/grpclog"
)

// RouteGRPC sends what the gRPC library logs, which is process-wide, to log, for debugging: it warns of whatever a peer does wrong, so
// that anybody at the mappers' socket could fill the log, and what matters comes as an error too. Kubernetes has it go to klog. It is
// called once, before anything speaks gRPC.
func RouteGRPC(log *slog.Logger) {
	debug := slog.NewLogLogger(log.With("part", "grpc").Handler(), slog.LevelDebug).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, debug, io.Discard)) // errors go to both
}
