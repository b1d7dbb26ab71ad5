package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// thin is an end of a connection that takes so many bytes a second.
type thin struct {
	net.Conn
	pace *rate.Limiter
}

func newThin(c net.Conn, bytes int) thin { return thin{c, rate.NewLimiter(rate.Limit(bytes), piece)} }

// piece is what passes at once.
const piece = 16 << 10

func (c thin) Write(p []byte) (int, error) {
	n := 0
	for part := range slices.Chunk(p, piece) {
		if err := c.pace.WaitN(context.Background(), len(part)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(part)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// muxes are the two ends of a carrier, the opener's first.
func muxes(t *testing.T, a, b net.Conn, ping time.Duration) (opener, acceptor *Mux) {
	t.Helper()
	mux := func(c net.Conn, opener bool) *Mux {
		wide := NewWide(c)
		cfg := muxConfig(opener)
		cfg.KeepAliveInterval = ping
		m, err := newMux(&TunnelConn{wide, wide}, opener, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	return mux(a, true), mux(b, false)
}

// stream opens one and accepts it.
func stream(t *testing.T, opener, acceptor *Mux) (here, there net.Conn) {
	t.Helper()
	here, err := opener.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if there, err = acceptor.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := Opened(there); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// On a thin link a ping waits behind up to a window of each stream: for many times the pause between pings here. Nothing is given up for that.
func TestAThinLinkCarriesMoreThanPassesBetweenPings(t *testing.T) {
	a, b := net.Pipe()
	const size, each = 3_000_000, 1_000_000 // bytes, and a second
	opener, acceptor := muxes(t, newThin(a, each), newThin(b, each), 30*time.Millisecond)
	defer opener.Close()
	defer acceptor.Close()
	here, there := stream(t, opener, acceptor)
	for name, way := range map[string]struct{ from, to net.Conn }{"up": {there, here}, "down": {here, there}} {
		written := make(chan error, 1)
		go func() {
			_, err := way.from.Write(make([]byte, size))
			written <- err
		}()
		if n, err := io.CopyN(io.Discard, way.to, size); err != nil {
			t.Errorf("%s: %d of %d bytes arrived: %v", name, n, size, err)
		}
		if err := <-written; err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
	}
}

// What decides is TCP, which acknowledges beside what waits; all else has minutes.
func TestADeadConnectionIsFoundByTCP(t *testing.T) {
	for _, opener := range []bool{true, false} {
		if c := muxConfig(opener); c.ConnectionWriteTimeout < 10*time.Minute || c.StreamOpenTimeout < 10*time.Minute {
			t.Errorf("a frame has %s and a new stream %s, behind a window of each stream on a thin link", c.ConnectionWriteTimeout, c.StreamOpenTimeout)
		}
	}
	a, b := tcpPair(t)
	defer b.Close()
	wide := NewWide(a)
	m, err := NewMux(&TunnelConn{wide, wide}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	raw, err := a.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	if cerr := raw.Control(func(fd uintptr) { limit, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if limit != int(unacknowledged/time.Millisecond) {
		t.Errorf("the kernel gives up after %d ms, expected %s", limit, unacknowledged)
	}
}

// Who asked for a log may be a person with a pager: what the other end wrote before it closed waits for him. Only who opened a stream takes
// no more of it once he closes it.
func TestWhatWasWrittenBeforeTheEndWaitsForItsReader(t *testing.T) {
	if limit := muxConfig(false).StreamCloseTimeout; limit != 0 {
		t.Errorf("%s after its end an accepted stream is reset, and what was not read of it is lost", limit)
	}
	if limit := muxConfig(true).StreamCloseTimeout; limit <= 0 || limit > time.Minute {
		t.Errorf("a stream that its opener closed is kept for %s, expected a minute at most", limit)
	}
}

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
