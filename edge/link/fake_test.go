package link

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore is an empty store whose commits a test may hold up or fail, and whose outbox has the heads that a test gives it: of those, what
// is in writes is there still.
type fakeStore struct {
	commit func([]Incoming) error
	heads  []session.Head
	writes map[uint64]object.Outgoing

	mu       sync.Mutex // guards all below
	synced   []object.ID
	epoch    string
	full     bool // no room for what is to be written again
	asserted int
	tries    int // to write it
}

func (*fakeStore) Digests(context.Context) (map[object.ID]object.Digest, error) { return nil, nil }
func (*fakeStore) Inventory(context.Context, object.ID, func(object.Key, object.Version) error) error {
	return nil
}
func (*fakeStore) NodeUID(context.Context) (string, error)                { return "", nil }
func (*fakeStore) ID() string                                             { return "db" }
func (s *fakeStore) ApplyBatch(_ context.Context, items []Incoming) error { return s.commit(items) }
func (s *fakeStore) Outbox(context.Context) (Outbox, error)               { return givenOutbox{s.heads}, nil }
func (*fakeStore) Drop(context.Context, uint64) error                     { return nil }
func (*fakeStore) Dropped() []uint64                                      { return nil }
func (s *fakeStore) Load(_ context.Context, id uint64) (o object.Outgoing, ok bool, err error) {
	o, ok = s.writes[id]
	return o, ok, nil
}
func (s *fakeStore) MarkSynced(_ context.Context, kinds []object.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = append(s.synced, kinds...)
	return nil
}

func (s *fakeStore) Epoch() string { s.mu.Lock(); defer s.mu.Unlock(); return s.epoch }
func (s *fakeStore) AssertAll(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	if s.full {
		return fmt.Errorf("assert: %w", object.ErrFull)
	}
	s.asserted++
	return nil
}

func (s *fakeStore) SetEpoch(ctx context.Context, epoch string) error {
	if err := s.AssertAll(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = epoch
	return nil
}

// givenOutbox has its heads from the beginning.
type givenOutbox struct{ heads []session.Head }

func (givenOutbox) C() <-chan struct{} { return nil }
func (o givenOutbox) Take(context.Context) ([]session.Head, []uint64, error) {
	return o.heads, nil, nil
}
func (givenOutbox) Close() {}

// start runs a Link with that dialler until the returned function is called.
func start(t *testing.T, s *fakeStore, dial func(ctx context.Context, way Way) (transport.Stream, error), change ...func(*Deps)) (*Link, func()) {
	t.Helper()
	deps := Deps{Dial: dial, Store: s, LeaseAge: func() time.Duration { return -1 }, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()}
	for _, f := range change {
		f(&deps)
	}
	l, err := New(Config{Node: "edge", Servers: []Server{{WebSocket: "one:1"}, {WebSocket: "two:1"}}}, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Start(ctx) }()
	return l, func() { cancel(); <-done }
}

// cloud is the hub's end of a stream in memory.
type cloud struct {
	t *testing.T
	transport.Stream
	got chan *wire.Frame
}

// newCloud returns an edge's end and the hub's, which reads all that comes.
func newCloud(t *testing.T) (transport.Stream, *cloud) {
	edge, hub := transport.Pipe(nil, nil)
	c := &cloud{t, hub, make(chan *wire.Frame, 100)}
	go func() {
		defer close(c.got)
		for {
			f, err := wire.Read(hub, wire.MaxFrame)
			if err != nil {
				return
			}
			c.got <- f
		}
	}()
	return edge, c
}

func (c *cloud) send(f *wire.Frame) {
	c.t.Helper()
	b, err := wire.Append(nil, f)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cloud) welcome() {
	c.t.Helper()
	if f := <-c.got; f.GetHello() == nil {
		c.t.Fatalf("the first frame is %v, want a hello", f)
	}
	c.send(welcome())
}

func welcome() *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{Version: wire.Version, Session: "s1"}}}
}
