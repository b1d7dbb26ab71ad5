package devices

import (
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/grpclog"
)

// grpcSaid is what the gRPC library logs in these tests.
var grpcSaid lines

type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) with(part string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

func TestMain(m *testing.M) {
	RouteGRPC(slog.New(slog.NewTextHandler(&grpcSaid, &slog.HandlerOptions{Level: slog.LevelDebug}))) // before any test speaks it
	os.Exit(m.Run())
}

func TestWhatGRPCWarnsOfIsForDebugging(t *testing.T) {
	grpclog.Warning("a peer did this")
	grpclog.Error("a peer did that")
	grpclog.Info("a peer is there")
	for _, part := range []string{"a peer did this", "a peer did that"} {
		if found := grpcSaid.with(part); len(found) != 1 || !strings.Contains(found[0], "level=DEBUG") || !strings.Contains(found[0], "part=grpc") {
			t.Errorf("%s: found %q, expected one line for debugging", part, found)
		}
	}
	if found := grpcSaid.with("is there"); len(found) != 0 {
		t.Errorf("found %q", found)
	}
}
