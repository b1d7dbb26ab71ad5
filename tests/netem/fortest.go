package netem

import (
	"context"
	"log/slog"
	"testing"
)

// ForTest makes a relay and starts it; it ends with the test, or when the returned function is called. The caller's
// thread must be in the network namespace of the links.
func ForTest(t testing.TB, cfg Config) (relay *Relay, stop func()) {
	t.Helper()
	r, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Start(ctx) }()
	ended := false
	stop = func() {
		t.Helper()
		cancel()
		if ended {
			return
		}
		ended = true
		if err := <-done; err != nil {
			t.Errorf("the relay ended by itself: %v", err)
		}
		if t.Failed() {
			t.Logf("relay up: %+v, down: %+v", r.Counters(Up), r.Counters(Down))
		}
	}
	t.Cleanup(stop)
	return r, stop
}
