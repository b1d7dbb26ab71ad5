package transport

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// TestWhoOpensAStreamWaitsNoLongerThanHeWants: a peer that accepts no streams holds up nobody beyond his context, and what
// he no longer waits for is closed when it comes.
func TestWhoOpensAStreamWaitsNoLongerThanHeWants(t *testing.T) {
	a, b := tcpPair(t)
	mux := func(c *TunnelConn, opener bool) *Mux {
		m, err := NewMux(c, opener)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m
	}
	wideA, wideB := NewWide(a), NewWide(b)
	here, there := mux(&TunnelConn{wideA, wideA}, true), mux(&TunnelConn{wideB, wideB}, false)
	for i := range MaxStreams {
		if _, err := here.Open(t.Context()); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := here.Open(ctx)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("one more than the peer takes: %v, expected that the time is over", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("one more than the peer takes: still waiting, long after the context is done")
	}
	for i := range MaxStreams {
		if _, err := there.Accept(t.Context()); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	late, err := there.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := late.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := late.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the stream that came too late: %d bytes, %v; expected its end", n, err)
	}
}
