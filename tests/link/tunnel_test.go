package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// echo sends back what comes.
func echo(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }

// open opens a stream to a node.
func (w *world) open(node string) net.Conn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.hub.Open(ctx, node)
	if err != nil {
		w.t.Fatalf("open a stream to %s: %v", node, err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends n bytes and expects them back.
func exchange(t *testing.T, c net.Conn, n int) {
	t.Helper()
	sent := make([]byte, n)
	_, _ = rand.Read(sent)
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, n)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read what was sent back: %v", err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("something else was sent back")
	}
}

func TestStreamsCarryBytesBothWaysBesideTheSync(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge", edgeConfig{tunnel: echo})
	eventually(t, "the edge is up", e.up)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { exchange(t, w.open("edge"), 3<<20) })
	}
	all.Wait()
	k := object.Key{Kind: object.ConfigMaps, Namespace: "a", Name: "b"}
	w.caches.change(k, []byte("new"))
	eventually(t, "a change arrives", func() bool { return e.store.get(k) == "new" })
}

// The hub sends what an edge wrote, an edge what a kubelet said, however much that is: who does not read it stops that
// stream and no other.
func TestAStreamThatNobodyReadsHoldsUpNothingElse(t *testing.T) {
	w := newWorld(t, nil)
	var written atomic.Int64
	const unread = 4
	var begun atomic.Int64
	flood := func(ctx context.Context, c net.Conn) {
		if begun.Add(1) > unread {
			echo(ctx, c)
			return
		}
		b := make([]byte, 64<<10)
		for {
			n, err := c.Write(b)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}
	e := w.join("edge", edgeConfig{tunnel: flood})
	eventually(t, "the edge is up", e.up)
	for range unread {
		if _, err := w.open("edge").Write([]byte("begin")); err != nil {
			t.Fatal(err)
		}
	}
	// They are stuck once they have written nothing for a while.
	var before int64
	since := time.Now()
	eventually(t, "the floods are stuck", func() bool {
		if n := written.Load(); n != before || n == 0 {
			before, since = n, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	if n := written.Load(); n > unread*(transport.StreamWindow+64<<10) { // a Write counts once it is done
		t.Errorf("%d bytes of %d streams that nobody read were taken, the window of each is %d", n, unread, transport.StreamWindow)
	}
	exchange(t, w.open("edge"), 1<<20)
	k := object.Key{Kind: object.ConfigMaps, Namespace: "a", Name: "b"}
	w.caches.change(k, bytes.Repeat([]byte("new"), 100_000))
	eventually(t, "a change arrives", func() bool { return len(e.store.get(k)) == 300_000 })
	e.store.write(1, k)
	eventually(t, "a write goes up", func() bool { return e.store.waiting() == 0 })
}

func TestAStreamEndsWithEitherEndAndWithTheSession(t *testing.T) {
	w := newWorld(t, nil)
	ended := make(chan error, 4)
	var closed atomic.Bool
	e := w.join("edge", edgeConfig{tunnel: func(ctx context.Context, c net.Conn) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err == nil && !closed.Swap(true) {
			return // the edge's end closes
		}
		_, _ = c.Write(b)
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		_, err := c.Read(b)
		ended <- err
	}})
	eventually(t, "the edge is up", e.up)
	by := w.open("edge")
	if _, err := by.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = by.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := by.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the edge closed its end: %v, expected EOF", err)
	}
	mine := w.open("edge")
	exchange(t, mine, 1)
	_ = mine.Close()
	if err := <-ended; err == nil {
		t.Error("the hub closed its end, and the edge read on")
	}
	of := w.open("edge")
	exchange(t, of, 1)
	e.stop()
	<-ended
	_ = of.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := of.Read(make([]byte, 1)); err == nil {
		t.Error("the session ended, and its stream did not")
	}
	eventually(t, "the node counts as away", func() bool {
		_, err := w.hub.Open(t.Context(), "edge")
		return errors.Is(err, hub.ErrAway)
	})
}

func TestANodeHasSoManyStreamsAndNoMore(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge", edgeConfig{tunnel: echo})
	eventually(t, "the edge is up", e.up)
	var open []net.Conn
	for range transport.MaxStreams {
		c := w.open("edge")
		exchange(t, c, 1)
		open = append(open, c)
	}
	if _, err := w.hub.Open(t.Context(), "edge"); !errors.Is(err, hub.ErrStreams) {
		t.Fatalf("one more: %v, expected ErrStreams", err)
	}
	_ = open[0].Close()
	exchange(t, w.open("edge"), 1)
}

func TestAnEdgeWithoutATunnelSaysSo(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("old", edgeConfig{})
	eventually(t, "the edge is up", e.up)
	if _, err := w.hub.Open(t.Context(), "old"); !errors.Is(err, hub.ErrNoTunnel) {
		t.Errorf("got %v, expected ErrNoTunnel", err)
	}
	if _, err := w.hub.Open(t.Context(), "nobody"); !errors.Is(err, hub.ErrAway) {
		t.Errorf("got %v, expected ErrAway", err)
	}
}

// The second connection of a session is taken from its own node, when it was asked for, and from nobody else.
func TestASecondConnectionIsTakenFromItsOwnNodeWhenItWasAskedFor(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge", edgeConfig{tunnel: echo})
	eventually(t, "the edge is up", e.up)
	session := e.Status().Session
	dial := func(node string) error {
		s, err := transport.DialTunnel(t.Context(), nil, w.addr, session, w.clientTLS(node))
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	for _, node := range []string{"thief", "edge"} {
		if err := dial(node); err == nil || !strings.Contains(err.Error(), "409") {
			t.Errorf("a second connection of %s for a session that did not ask: %v, expected status 409", node, err)
		}
	}
	exchange(t, w.open("edge"), 10)
}

// Who reads logs is told in seconds that the edge is gone, not after three of its pings, of which the first is a minute away.
func TestAnEdgeThatFallsSilentUnderAStreamIsGoneInSeconds(t *testing.T) {
	w := newWorld(t, nil)
	r := w.raw("silent")
	r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "silent", Store: "raw", Features: []string{"tunnel"}, PingIntervalMs: 60_000}}})
	if r.next().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	// Over QUIC the stream is there at once; over WebSocket the edge is asked for a connection that it never opens.
	go func() {
		if c, err := w.hub.Open(t.Context(), "silent"); err == nil {
			<-t.Context().Done()
			_ = c.Close()
		}
	}()
	within(t, 30*time.Second, "the session to end", func() bool { return w.nodes.session("silent") == "" })
}

// Streams are opened by the hub alone. An edge that opens some would have it keep what they bring.
func TestAnEdgeThatOpensStreamsIsCutOff(t *testing.T) {
	w := newWorld(t, nil)
	r := w.raw("hostile")
	r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "hostile", Store: "raw", Features: []string{"tunnel"}}}})
	welcome := r.next().GetWelcome()
	if carrier, ok := transport.CarrierOf(r.Stream); ok {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := carrier.Open(ctx); err == nil {
			t.Errorf("the hub lets an edge open a stream: %v", c)
		}
		return
	}
	go func() { _, _ = w.hub.Open(t.Context(), "hostile") }()
	for r.next().GetOpenTunnel() == nil {
	}
	s, err := transport.DialTunnel(t.Context(), nil, w.addr, welcome.Session, w.clientTLS("hostile"))
	if err != nil {
		t.Fatal(err)
	}
	mux, err := transport.NewMux(s, false)
	if err != nil {
		t.Fatal(err)
	}
	defer mux.Close()
	c, err := mux.Open(t.Context())
	if err == nil {
		_, _ = c.Write([]byte("take this"))
	}
	select {
	case <-mux.Done():
	case <-time.After(8 * time.Second): // a silent edge's session ends after 15
		t.Error("the hub keeps the streams that an edge opened")
	}
}
