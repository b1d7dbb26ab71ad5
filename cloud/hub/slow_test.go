package hub

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// nothing is a cluster without objects, whose API server takes all that it is told.
type nothing struct {
	applied chan *wire.Write
	call    func(node string) *wire.Reply
	alive   func(node string, leaseAge time.Duration)
}

func (nothing) Synced() bool { return true }
func (n nothing) Subscribe(string, func([]object.Key)) (session.View, func()) {
	return n, func() {}
}
func (nothing) ServerRevision(context.Context) (uint64, error)   { return 1, nil }
func (nothing) List(object.ID, func(object.Key, object.Version)) {}
func (nothing) Get(object.Key) (object.Item, bool)               { return object.Item{}, false }
func (nothing) Cause(object.Key, string, string) object.Cause    { return object.CauseDeleted }
func (nothing) Pending(object.Key) bool                          { return false }
func (nothing) Revision(object.ID) uint64                        { return 1 }
func (nothing) NodeUID() string                                  { return "" }
func (nothing) Kinds() []object.ID                               { return []object.ID{object.Pods} }
func (nothing) Connected(_, _, _ string, _ transport.Protocol)   {}
func (nothing) Disconnected(string, string)                      {}
func (n nothing) Alive(node, _ string, leaseAge, _ time.Duration) {
	if n.alive != nil {
		n.alive(node, leaseAge)
	}
}
func (nothing) Restored(string, object.Key, uint64, uint64) {}
func (n nothing) Apply(_ context.Context, _ string, w *wire.Write) *wire.Result {
	n.applied <- w
	return &wire.Result{Code: 200, Final: true}
}

func (n nothing) Call(_ context.Context, node string, _ *wire.Call) *wire.Reply { return n.call(node) }

// slowWorld is a hub in a bubble of testing/synctest, which tests let edges into over pipes that hold nothing.
type slowWorld struct {
	t *testing.T
	*Hub
	ctx context.Context
}

func newSlowWorld(t *testing.T, world nothing, cfg Config) slowWorld {
	cfg.HandshakeTimeout, cfg.MaxSessions = time.Minute, 100
	h := New(cfg, Deps{Caches: world, Upstream: world, Nodes: world, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	return slowWorld{t, h, t.Context()}
}

// edge is the edge's end of a session.
type edge struct {
	t *testing.T
	transport.Stream
}

// connect begins a session of the node, up to its Hello, of a process that may have a name.
func (w slowWorld) connect(node string, process ...string) edge {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}}
	e, end := transport.Pipe(cert, nil)
	go w.accept(w.ctx, end, func() {})
	edge := edge{w.t, e}
	edge.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: []uint32{wire.Version}, Node: node, Store: "s", Process: strings.Join(process, ""), PingIntervalMs: 15_000}}})
	return edge
}

func (e edge) send(f *wire.Frame) {
	e.t.Helper()
	b, err := wire.Append(nil, f)
	if err == nil {
		_, err = e.Write(b)
	}
	if err != nil {
		e.t.Error(err) // it is called by other goroutines, too
	}
}

// write sends a write of an object with that body.
func (e edge) write(id uint64, body []byte, how wire.Compression) {
	e.t.Helper()
	e.send(&wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: id, Kind: "pods", Namespace: "a", Name: fmt.Sprint("pod-", id), Op: wire.Op_OP_OVERLAY, Body: body, Compression: how}}})
}

// drain reads until the session ends, and counts the replies.
func (e edge) drain(replies *atomic.Int64) {
	for {
		f, err := wire.Read(e, wire.MaxFrame)
		if err != nil {
			return
		}
		if f.GetReply() != nil {
			replies.Add(1)
		}
	}
}

// TestAnEdgeOnAThinLinkIsNotTakenForDead: 368 KiB take 46 s, three pings and a second, at 64 kbit/s; an object may have more.
func TestAnEdgeOnAThinLinkIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := nothing{applied: make(chan *wire.Write, 1)}
		h := newSlowWorld(t, world, Config{})
		edge := h.connect("thin")
		go edge.drain(new(atomic.Int64))
		rest, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: 1, Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Body: make([]byte, 100_000)}}})
		if err != nil {
			t.Fatal(err)
		}
		for len(rest) > 0 {
			n := min(len(rest), 12_000)
			if _, err := edge.Write(rest[:n]); err != nil {
				t.Fatalf("with %d bytes of the frame to come: %v", len(rest), err)
			}
			rest = rest[n:]
			<-time.After(10 * time.Second)
		}
		synctest.Wait()
		select {
		case w := <-world.applied:
			if len(w.Body) != 100_000 {
				t.Errorf("%d bytes arrived", len(w.Body))
			}
		default:
			t.Error("the write did not arrive")
		}
		// One that says nothing at all is still noticed.
		<-time.After(47 * time.Second)
		synctest.Wait()
		if n := h.Count(); n != 0 {
			t.Errorf("%d sessions after three pings were missed, want none", n)
		}
		_ = edge.Close()
		h.open.Wait()
	})
}

// TestRepliesThatNobodyReadsAreBoundedInTheSum: many edges that ask for much and read nothing hold a budget, and keep nobody
// else waiting.
func TestRepliesThatNobodyReadsAreBoundedInTheSum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const edges, each, size, budget = 8, 30, 256 << 10, 3 << 20
		world := nothing{call: func(node string) *wire.Reply {
			if node == "small" {
				return &wire.Reply{Code: 200}
			}
			return &wire.Reply{Code: 200, Body: make([]byte, size)}
		}}
		h := newSlowWorld(t, world, Config{MaxHeldBytes: 2 * budget})
		ask := func(e edge, n int) {
			for i := range n {
				e.send(&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: uint64(i + 1), Verb: "get", Kind: "pods", Name: "a"}}})
			}
		}
		var all []edge
		var asking sync.WaitGroup
		for i := range edges {
			e := h.connect(fmt.Sprintf("greedy-%d", i))
			all = append(all, e)
			if _, err := wire.Read(e, wire.MaxFrame); err != nil { // the Welcome
				t.Fatal(err)
			}
			asking.Go(func() { ask(e, each) })
		}
		synctest.Wait()
		if held, limit := h.replies.used.Load(), int64(budget+edges*size); held < budget || held > limit {
			t.Errorf("the hub holds %d bytes that nobody reads, expected %d to %d: the budget, and a reply more for each edge", held, budget, limit)
		}
		small := h.connect("small")
		var served atomic.Int64
		go small.drain(&served)
		ask(small, 3)
		synctest.Wait()
		if n := served.Load(); n != 3 {
			t.Errorf("an edge that asks for little got %d replies of 3", n)
		}
		counts := make([]atomic.Int64, edges)
		for i, e := range all {
			go e.drain(&counts[i])
		}
		asking.Wait()
		synctest.Wait()
		for i := range counts {
			if n := counts[i].Load(); n != each {
				t.Errorf("edge %d got %d replies of %d once it reads", i, n, each)
			}
		}
		if held := h.replies.used.Load(); held != 0 {
			t.Errorf("%d bytes are taken for held when all is read", held)
		}
		for _, e := range append(all, small) {
			_ = e.Close()
		}
		h.open.Wait()
	})
}

// TestAnEdgeThatWaitedForTheBudgetGoesOnOnceOthersFreeIt: nothing of its own has to move for that, and meanwhile neither end takes the
// other for dead.
func TestAnEdgeThatWaitedForTheBudgetGoesOnOnceOthersFreeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 256 << 10
		world := nothing{applied: make(chan *wire.Write)}
		h := newSlowWorld(t, world, Config{MaxHeldBytes: 2 * budget})
		greedy, waits := h.connect("greedy"), h.connect("waits")
		go greedy.drain(new(atomic.Int64))
		heard := make(chan *wire.Frame, 100)
		go func() {
			for {
				f, err := wire.Read(waits, wire.MaxFrame)
				if err != nil {
					return
				}
				heard <- f
			}
		}()
		write := func(e edge, name string, size int) {
			e.send(&wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: uint64(len(name)), Kind: "pods", Namespace: "a", Name: name, Op: wire.Op_OP_OVERLAY, Body: make([]byte, size)}}})
		}
		write(greedy, "a", budget)
		synctest.Wait()
		write(waits, "b", 100) // what is small is let through
		sent := make(chan struct{})
		go func() { defer close(sent); write(waits, "bb", 2*small) }()
		synctest.Wait()
		if held := h.arriving.used.Load(); held != budget+100 {
			t.Errorf("%d bytes are held while the budget is used up, want %d: nothing large is to be read", held, budget+100)
		}
		for len(heard) > 0 {
			<-heard
		}
		for range 8 { // two minutes, in which an edge that is kept waiting cannot ping
			<-time.After(15 * time.Second)
			greedy.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 1}}})
		}
		synctest.Wait()
		if n := h.Count(); n != 2 {
			t.Errorf("%d of 2 sessions are left after two minutes: neither edge is dead", n)
		}
		if len(heard) < 8 {
			t.Errorf("an edge that is kept waiting heard the hub %d times in two minutes, want more than once in 15 s", len(heard))
		}
		if w := <-world.applied; w.Name != "a" && w.Name != "b" {
			t.Errorf("%s was applied", w.Name)
		}
		<-world.applied
		synctest.Wait()
		<-sent
		if w := <-world.applied; w.Name != "bb" || len(w.Body) != 2*small {
			t.Errorf("%s was applied at last", w.Name)
		}
		synctest.Wait()
		if held := h.arriving.used.Load(); held != 0 {
			t.Errorf("%d bytes are taken for held when all is answered", held)
		}
		for _, e := range []edge{greedy, waits} {
			_ = e.Close()
		}
		h.open.Wait()
	})
}

// TestASessionThatHasEndedMakesNoneOfItsWaitingCalls: a switch that dies ends all sessions at once.
func TestASessionThatHasEndedMakesNoneOfItsWaitingCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const asked = 30
		var made atomic.Int64
		release := make(chan struct{})
		h := newSlowWorld(t, nothing{call: func(string) *wire.Reply {
			made.Add(1)
			<-release
			return &wire.Reply{Code: 200}
		}}, Config{})
		e := h.connect("a")
		go e.drain(new(atomic.Int64))
		// The first reply tells that they are small, so that the edge is read on while others are under way.
		e.send(&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: 1, Verb: "get", Kind: "pods", Name: "a"}}})
		release <- struct{}{}
		for i := range asked {
			e.send(&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: uint64(i + 2), Verb: "get", Kind: "pods", Name: "a"}}})
		}
		synctest.Wait()
		if n := made.Load() - 1; n != maxAsking {
			t.Errorf("%d of %d calls are with the API server, want %d", n, asked, maxAsking)
		}
		_ = e.Close()
		synctest.Wait()
		close(release)
		synctest.Wait()
		if n := made.Load() - 1; n != maxAsking {
			t.Errorf("%d calls were made in all, want %d: none once the session had ended", n, maxAsking)
		}
		h.open.Wait()
	})
}

// TestAFrameThatDoesNotComeKeepsNobodyWaiting: who announces large frames and sends little of them holds little; who sends more, and then
// nothing, holds it for a while, and for less while others wait.
func TestAFrameThatDoesNotComeKeepsNobodyWaiting(t *testing.T) {
	for sent, within := range map[int]time.Duration{5: 0, wire.Unreserved + 4 + piece: quick + slow} {
		synctest.Test(t, func(t *testing.T) {
			const budget = 8 << 20
			world := nothing{applied: make(chan *wire.Write, 1)}
			h := newSlowWorld(t, world, Config{MaxHeldBytes: 4 * budget})
			var idle []edge
			var trickling sync.WaitGroup
			for i := range 3 {
				e := h.connect(fmt.Sprint("idle-", i))
				go e.drain(new(atomic.Int64))
				begun := make([]byte, sent)
				copy(begun, []byte{0, 0x40, 0, 0}) // 4 MiB
				if _, err := e.Write(begun); err != nil {
					t.Fatal(err)
				}
				trickling.Go(func() { // it is not dead
					for {
						<-time.After(20 * time.Second)
						if _, err := e.Write([]byte{0}); err != nil {
							return
						}
					}
				})
				idle = append(idle, e)
			}
			synctest.Wait()
			begun := time.Now()
			e := h.connect("busy")
			go e.drain(new(atomic.Int64))
			go e.write(1, make([]byte, 1<<20), wire.Compression_COMPRESSION_NONE)
			select {
			case <-world.applied:
			case <-time.After(time.Hour): // of the bubble
			}
			if took := time.Since(begun); took > within {
				t.Errorf("after %d bytes of a frame of 4 MiB that does not come, of each of three edges, another edge's write took %s, want %s at most", sent, took, within)
			}
			for _, e := range append(idle, e) {
				_ = e.Close()
			}
			trickling.Wait()
			h.open.Wait()
		})
	}
}

// TestWritesThatOpenToMoreAllGoThrough: each is there before it is known what it opens to, and all together may hold the budget.
func TestWritesThatOpenToMoreAllGoThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const edges, budget = 16, 256 << 10
		body := make([]byte, 128<<10)
		for i := range body[:64<<10] {
			body[i] = byte(rand.IntN(256))
		}
		compressor, err := wire.NewCompressor()
		if err != nil {
			t.Fatal(err)
		}
		packed, _ := compressor.Compress(body)
		const how = wire.Compression_COMPRESSION_ZSTD
		if len(packed) < 2*small || wire.OpenSize(packed, how) < len(body) {
			t.Fatalf("%d bytes are packed into %d", len(body), len(packed))
		}
		world := nothing{applied: make(chan *wire.Write)}
		h := newSlowWorld(t, world, Config{MaxHeldBytes: 4 * budget})
		frame, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: 1, Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Body: packed, Compression: how}}})
		if err != nil {
			t.Fatal(err)
		}
		var all []edge
		rest := make(chan struct{})
		for i := range edges {
			e := h.connect(fmt.Sprint("edge-", i))
			go e.drain(new(atomic.Int64))
			go func() {
				_, err1 := e.Write(frame[:len(frame)-1])
				<-rest
				_, err2 := e.Write(frame[len(frame)-1:])
				if err := errors.Join(err1, err2); err != nil {
					t.Error(err)
				}
			}()
			all = append(all, e)
		}
		synctest.Wait() // as many as there is room for are nearly there
		close(rest)
		for i := range edges {
			synctest.Wait()
			if held := h.arriving.used.Load(); held > 2*budget+int64(wire.OpenSize(packed, how)) {
				t.Errorf("%d bytes are held with %d of %d answered, want %d and a body at most", held, i, edges, 2*budget)
			}
			select {
			case <-world.applied:
			case <-time.After(time.Hour): // of the bubble
				t.Fatalf("%d of %d writes go through, and then none", i, edges)
			}
		}
		synctest.Wait()
		if held := h.arriving.used.Load(); held != 0 {
			t.Errorf("%d bytes are taken for held when all is answered", held)
		}
		for _, e := range all {
			_ = e.Close()
		}
		h.open.Wait()
	})
}

// TestAnEdgeThatTheHubKeepsWaitingIsAlive: its pings are not read meanwhile, and its node must not become NotReady by that. But it does not stand
// in the way of the same machine, which connects again.
func TestAnEdgeThatTheHubKeepsWaitingIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget, age = 256 << 10, 7 * time.Second
		last := time.Now()
		var longest time.Duration
		world := nothing{applied: make(chan *wire.Write), alive: func(node string, leaseAge time.Duration) {
			if node == "waits" && leaseAge == age {
				longest, last = max(longest, time.Since(last)), time.Now()
			}
		}}
		h := newSlowWorld(t, world, Config{MaxHeldBytes: 4 * budget})
		greedy, waits := h.connect("greedy"), h.connect("waits", "first")
		go greedy.drain(new(atomic.Int64))
		go waits.drain(new(atomic.Int64))
		greedy.write(1, make([]byte, budget), wire.Compression_COMPRESSION_NONE)
		waits.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 1, LeaseAgeMs: age.Milliseconds()}}})
		synctest.Wait()
		go func() {
			b, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: 1, Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Body: make([]byte, 2*small)}}})
			if err != nil {
				t.Error(err)
			}
			_, _ = waits.Write(b) // until the session is replaced
		}()
		for range 8 {
			<-time.After(15 * time.Second)
			greedy.send(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: 1}}})
		}
		synctest.Wait()
		if longest = max(longest, time.Since(last)); longest > 15*time.Second {
			t.Errorf("of an edge that is kept waiting nobody heard for %s", longest)
		}
		begun := time.Now()
		again := h.connect("waits", "second")
		if f, err := wire.Read(again, wire.MaxFrame); err != nil || f.GetWelcome() == nil {
			t.Errorf("the same machine was told %v, %v", f, err)
		}
		if took := time.Since(begun); took > 2*copyDoubt {
			t.Errorf("that took %s, want %s or so", took, copyDoubt)
		}
		<-world.applied
		for _, e := range []edge{greedy, waits, again} {
			_ = e.Close()
		}
		h.open.Wait()
	})
}
