package transport

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

// counted counts the calls that would be system calls.
type counted struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestAWideConnectionAsksTheKernelForLess(t *testing.T) {
	a, b := tcpPair(t)
	from, to := &counted{Conn: a}, &counted{Conn: b}
	sender, receiver := NewWide(from), NewWide(to)
	record := bytes.Repeat([]byte("r"), 1<<14)
	sender.Hold()
	for range 4 {
		if _, err := sender.Write(record); err != nil {
			t.Fatal(err)
		}
	}
	if n := from.writes.Load(); n != 0 {
		t.Errorf("%d writes before Flush, expected none", n)
	}
	if err := sender.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := from.writes.Load(); n != 1 {
		t.Errorf("%d writes of 64 KiB that were held, expected 1", n)
	}
	if _, err := sender.Write([]byte("at once")); err != nil {
		t.Fatal(err)
	}
	// More says of no byte that it is there before it is.
	got := make([]byte, 0, 1<<17)
	for len(got) < 4<<14 {
		if n := len(got); receiver.More() && n+maxRecord > 4<<14+len("at once") {
			t.Errorf("after %d bytes a record more is said to be there", n)
		}
		buf := make([]byte, 1<<14)
		n, err := receiver.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	rest := make([]byte, 4<<14+len("at once")-len(got))
	if _, err := io.ReadFull(receiver, rest); err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Repeat(record, 4), "at once"...); !bytes.Equal(append(got, rest...), want) {
		t.Error("what came is not what was sent")
	}
	if n := to.reads.Load(); n > 8 {
		t.Errorf("%d reads for 64 KiB that came at once", n)
	}
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// countingListener accepts connections that count.
type countingListener struct{ net.Listener }

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &counted{Conn: c}, nil
}

// widePair is a connection over TLS that a FairListener accepted and Widen made wide, and its other end.
func widePair(t *testing.T) (wide *WideTLS, below *counted, other *tls.Conn) {
	t.Helper()
	server, below, other := fairPair(t)
	wide, ok := Widen(server)
	if !ok {
		t.Fatal("a connection that a FairListener accepted is not made wide")
	}
	return wide, below, other
}

// fairPair is a connection over TLS that a FairListener accepted, and its other end.
func fairPair(t *testing.T) (server *tls.Conn, below *counted, other *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fair := NewFairListener(countingListener{l}, 1, time.Hour)
	t.Cleanup(func() { _ = fair.Close() })
	a := newAuthority(t)
	pair, err := a.ca.IssueServer([]string{pki.ServerName}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	t.Cleanup(func() { _ = raw.Close() })
	accepted, err := fair.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server = tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{certificate}, DynamicRecordSizingDisabled: true})
	t.Cleanup(func() { _ = server.Close() })
	shaken := make(chan error, 1)
	go func() { shaken <- other.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	inner, _ := Place(accepted)
	return server, inner.(*counted), other
}

// stuck is a reader and a writer at which nothing comes and goes until it is let go.
type stuck struct {
	here chan struct{} // gets one for each that waits
	let  chan struct{} // closed to let go
}

func (s stuck) Read([]byte) (int, error) { return s.wait() }

func (s stuck) Write([]byte) (int, error) { return s.wait() }

func (s stuck) wait() (int, error) {
	s.here <- struct{}{}
	<-s.let
	return 0, io.ErrClosedPipe
}

// wideLimit is what docs/security.md says that a connection costs which was made wide, in bytes.
const wideLimit = 272 << 10

func TestWideTLSHoldsABoundedBuffer(t *testing.T) {
	const count = 48 // so that what other tests let go meanwhile counts for little
	var servers [count]*tls.Conn
	var others [count]*tls.Conn
	for i := range servers {
		servers[i], _, others[i] = fairPair(t)
		// TLS has its own buffers from the first byte on.
		for _, way := range [][2]*tls.Conn{{servers[i], others[i]}, {others[i], servers[i]}} {
			if _, err := way[0].Write(make([]byte, maxPlain)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(way[1], make([]byte, maxPlain)); err != nil {
				t.Fatal(err)
			}
		}
	}
	heap := func() int {
		runtime.GC()
		runtime.GC() // what pools and finalizers let go
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	s := stuck{make(chan struct{}), make(chan struct{})}
	var ended sync.WaitGroup
	for i, server := range servers {
		wide, ok := Widen(server)
		if !ok {
			t.Fatal("it is not made wide")
		}
		ended.Go(func() { _, _ = io.Copy(wide, struct{ io.Reader }{s}) })
		ended.Go(func() { _, _ = io.Copy(struct{ io.Writer }{s}, wide) })
		if _, err := others[i].Write([]byte("something to copy")); err != nil {
			t.Fatal(err)
		}
		<-s.here
		<-s.here
	}
	if each := (heap() - before) / count; each < wideLimit/2 || each > wideLimit+wideLimit/16 {
		t.Errorf("a wide connection with copies under way both ways holds %d bytes, expected about %d", each, wideLimit)
	}
	close(s.let)
	ended.Wait()
}

// pieces gives its bytes 64 KiB at a time.
type pieces struct{ r io.Reader }

func (p pieces) Read(b []byte) (int, error) { return io.ReadFull(p.r, b[:min(len(b), 64<<10)]) }

// TestWideTLSAsksTheKernelForLess, both ways: TLS has a record for every 16 KiB, which would be a call each.
func TestWideTLSAsksTheKernelForLess(t *testing.T) {
	wide, below, other := widePair(t)
	content := make([]byte, 4<<20) // 64 pieces, 256 records
	for i := range content {
		content[i] = byte(i >> 8)
	}
	got := make(chan []byte, 1)
	go func() {
		b := make([]byte, len(content))
		_, _ = io.ReadFull(other, b)
		got <- b
	}()
	before := below.writes.Load()
	if n, err := io.Copy(wide, pieces{bytes.NewReader(content)}); n != int64(len(content)) || err != nil && err != io.ErrUnexpectedEOF {
		t.Fatalf("copied %d bytes: %v", n, err)
	}
	if !bytes.Equal(<-got, content) {
		t.Error("what came is not what was sent")
	}
	if n := below.writes.Load() - before; n > 64 {
		t.Errorf("%d writes for 64 pieces of 64 KiB, expected one each", n)
	}
	// Four records wait in the kernel before anybody reads.
	content = content[:4<<14]
	if _, err := other.Write(content); err != nil {
		t.Fatal(err)
	}
	_ = other.CloseWrite()
	var back writes
	if n, err := io.Copy(&back, wide); n != int64(len(content)) || err != nil {
		t.Fatalf("copied back %d bytes: %v", n, err)
	}
	if !bytes.Equal(bytes.Join(back, nil), content) {
		t.Error("what came back is not what was sent")
	}
	if len(back) > 3 {
		t.Errorf("written in %d pieces, expected less than the four records that had come", len(back))
	}
}

// writes are what was written, one by one.
type writes [][]byte

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, bytes.Clone(p))
	return len(p), nil
}

func TestOnlyWhatWasAcceptedHereIsMadeWide(t *testing.T) {
	a, b := tcpPair(t)
	for name, c := range map[string]net.Conn{"no TLS": a, "not accepted by a FairListener": tls.Server(b, &tls.Config{})} {
		if _, ok := Widen(c); ok {
			t.Errorf("%s: made wide", name)
		}
	}
}
