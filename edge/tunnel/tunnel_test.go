package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server serves connections as the kubelet's own does.
type server struct{ handler http.HandlerFunc }

func (s server) Serve(ctx context.Context, c net.Conn) error {
	l := &listener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- c
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	h := &http.Server{Handler: s.handler, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(l.closed)
		}
	}}
	if err := h.Serve(l); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listener has one connection, and ends with it.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

type away struct{}

func (away) Serve(context.Context, net.Conn) error {
	return errors.New("dial tcp 127.0.0.1:10350: connect: connection refused")
}

// serve has a stream served until the test ends.
func serve(t *testing.T, ctx context.Context, kubelet Kubelet) (cloud net.Conn, ended chan struct{}) {
	t.Helper()
	cloud, edge := net.Pipe()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		New(kubelet, slog.New(slog.DiscardHandler)).Serve(ctx, edge)
	}()
	t.Cleanup(func() {
		_ = cloud.Close()
		expectEnd(t, ended)
	})
	return cloud, ended
}

func expectEnd(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the stream goes on after 10 s")
	}
}

func TestAStreamReachesTheKubelet(t *testing.T) {
	body := strings.Repeat("all that a log may say\n", 50_000)
	cloud, _ := serve(t, context.Background(), server{func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, body)
	}})
	if _, err := io.WriteString(cloud, "GET /logs HTTP/1.1\r\nHost: kubelet\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(cloud)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") || !strings.Contains(string(answer), "all that a log may say") || len(answer) < len(body) {
		t.Errorf("the answer has %d bytes: %v", len(answer), err)
	}
}

// talking is a kubelet that talks without end and does not listen; hung is closed once it talks.
func talking(hung chan struct{}) Kubelet {
	return server{func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		close(hung)
		for {
			if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
				return
			}
		}
	}}
}

// TestAStreamEndsWithItsCaller, also where the kubelet takes nothing more of what was written to it.
func TestAStreamEndsWithItsCaller(t *testing.T) {
	hung := make(chan struct{})
	cloud, ended := serve(t, context.Background(), talking(hung))
	go func() {
		_, _ = io.WriteString(cloud, "POST /exec HTTP/1.1\r\nHost: kubelet\r\nContent-Length: 1000000000\r\n\r\n")
		for {
			if _, err := cloud.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	<-hung
	_ = cloud.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = io.Copy(io.Discard, cloud) // until both directions are full
	_ = cloud.Close()
	expectEnd(t, ended)
}

// TestAStreamEndsWithItsSession while its caller reads nothing.
func TestAStreamEndsWithItsSession(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	hung := make(chan struct{})
	cloud, ended := serve(t, ctx, talking(hung))
	if _, err := io.WriteString(cloud, "GET /logs HTTP/1.1\r\nHost: kubelet\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-hung
	cancel()
	expectEnd(t, ended)
}

// TestAKubeletThatIsAwayIsSaid in words that kubectl before 1.36 shows, too: it reads them as YAML, and shows nothing of a map.
func TestAKubeletThatIsAwayIsSaid(t *testing.T) {
	cloud, _ := serve(t, context.Background(), away{})
	answer, err := io.ReadAll(cloud)
	if err != nil {
		t.Fatal(err)
	}
	head, text, _ := strings.Cut(string(answer), "\r\n\r\n")
	var m map[string]any
	if !strings.HasPrefix(head, "HTTP/1.1 502 ") || !strings.Contains(text, "does not answer: dial tcp 127.0.0.1:10350") || yaml.Unmarshal([]byte(text), &m) == nil {
		t.Errorf("the answer is %q", answer)
	}
}

// sink is a stream that notes the sizes of what is written to it, one piece for each token in let.
type sink struct {
	net.Conn // of which nothing but Close and deadlines is used
	let      chan struct{}
	mu       sync.Mutex
	sizes    []int
	all      bytes.Buffer
	limited  bool // a deadline was set
}

func (s *sink) SetWriteDeadline(time.Time) error {
	s.limited = true
	return nil
}

func newSink(t *testing.T) *sink {
	a, b := net.Pipe()
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return &sink{Conn: a, let: make(chan struct{}, 1000)}
}

func (s *sink) Write(p []byte) (int, error) {
	<-s.let
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, len(p))
	return s.all.Write(p)
}

// TestSmallWritesAreSentTogether and in order: those that come while one is under way are one after it.
func TestSmallWritesAreSentTogether(t *testing.T) {
	s := newSink(t)
	g := newGatherer(s)
	var want bytes.Buffer
	for i := range 1000 {
		piece := bytes.Repeat([]byte{byte(i)}, 50)
		want.Write(piece)
		if n, err := g.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if s.limited {
		t.Error("the Close bounds the time for what was written before: who reads it may take his time")
	}
	for range 1000 {
		s.let <- struct{}{}
	}
	<-g.gone
	if !bytes.Equal(s.all.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes arrived, expected the %d that were written before the Close, in order", s.all.Len(), want.Len())
	}
	if len(s.sizes) > 3 {
		t.Errorf("sent in %d pieces of %v bytes, expected what came before the first was under way, and the rest", len(s.sizes), s.sizes)
	}
	if _, err := g.Write([]byte("late")); err == nil {
		t.Error("a Write after the Close succeeds")
	}
}

// TestAStreamThatNobodyReadsHoldsABoundedBuffer: who writes more waits until some is sent.
func TestAStreamThatNobodyReadsHoldsABoundedBuffer(t *testing.T) {
	s := newSink(t)
	g := newGatherer(s)
	done := make(chan error, 1)
	go func() {
		_, err := g.Write(make([]byte, 3*gathered))
		done <- err
	}()
	full := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.waiting)
	}
	for deadline := time.Now().Add(10 * time.Second); full() < gathered; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes wait, expected %d", full(), gathered)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("three buffers were taken and none was sent: %v", err)
	default:
	}
	for range 100 {
		s.let <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	<-g.gone
	if s.all.Len() != 3*gathered {
		t.Errorf("%d bytes arrived, expected %d", s.all.Len(), 3*gathered)
	}
}

// TestWhatIsWrittenWhenTheStreamFailsFails, and what waited for room, too.
func TestWhatIsWrittenWhenTheStreamFailsFails(t *testing.T) {
	cloud, edge := net.Pipe()
	g := newGatherer(edge)
	done := make(chan error, 1)
	go func() {
		_, err := g.Write(make([]byte, 3*gathered))
		done <- err
	}()
	_ = cloud.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("more was taken than there is room for, though nobody reads it")
		}
	case <-time.After(10 * time.Second):
		t.Error("the Write waits though the stream is gone")
	}
	<-g.gone
	if _, err := g.Write([]byte("more")); err == nil {
		t.Error("a Write to a stream that is gone succeeds")
	}
}

// TestACallerWhoIsGoneHoldsUpNothing: the end of what it says is the end of the stream, whoever still writes to it.
func TestACallerWhoIsGoneHoldsUpNothing(t *testing.T) {
	s := newSink(t) // takes nothing
	silent := &silentStream{sink: s}
	g := newGatherer(silent)
	done := make(chan error, 1)
	go func() {
		_, err := g.Write(make([]byte, 3*gathered))
		done <- err
	}()
	if _, err := g.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("Read = %v, expected the end", err)
	}
	if err := <-done; err == nil {
		t.Error("a Write to a caller who is gone succeeds")
	}
	<-g.gone
	s.let <- struct{}{} // the piece that was under way
}

// silentStream has ended on the other side.
type silentStream struct{ *sink }

func (silentStream) Read([]byte) (int, error) { return 0, io.EOF }
