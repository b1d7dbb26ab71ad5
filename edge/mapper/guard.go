package mapper

import (
	"context"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// guard bounds what callers can cost: time, calls at once, and a fault of ours.
func (s *Server) guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	method := methodOf(info.FullMethod)
	defer func() {
		if fault := recover(); fault != nil {
			s.metrics.panics.Inc()
			s.deps.Log.Error("a mapper's call met a fault of edgecore's own", "method", method, "fault", fault, "stack", string(debug.Stack()))
			resp, err = nil, status.Error(codes.Internal, "a fault of the edge; its log says more")
		}
	}()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		return nil, status.Errorf(codes.ResourceExhausted, "expected at most %d calls at a time", cap(s.places))
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	return handle(ctx, req)
}

// unknown answers calls of what there is not.
func (s *Server) unknown(any, grpc.ServerStream) error {
	s.metrics.served.WithLabelValues("unknown", codes.Unimplemented.String()).Inc()
	return status.Error(codes.Unimplemented, "expected a method of v1beta1.DeviceManagerService")
}

// A tally counts the calls by mappers, also those that no guard sees: whose message cannot be read.
type tally struct{ m *metrics }

// methodKey is where a call's context has the name of its method.
type methodKey struct{}

// TagRPC notes what is called.
func (tally) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, info.FullMethodName)
}

// HandleRPC counts a call that ended.
func (t tally) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if full, _ := ctx.Value(methodKey{}).(string); ok && callable[full] {
		t.m.served.WithLabelValues(methodOf(full), status.Code(end.Error).String()).Inc()
	}
}

// TagConn and HandleConn have nothing to note: see places.
func (tally) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (tally) HandleConn(context.Context, stats.ConnStats)                       {}

// callable are the methods that there are, by their full names.
var callable = func() map[string]bool {
	all := map[string]bool{}
	for _, m := range dmi.DeviceManagerService_ServiceDesc.Methods {
		all["/"+dmi.DeviceManagerService_ServiceDesc.ServiceName+"/"+m.MethodName] = true
	}
	return all
}()

func methodOf(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }
