package link

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/wire"
)

// slowUpstream holds every write until it is released, and counts what it holds.
type slowUpstream struct {
	mu      sync.Mutex // guards held
	held    int
	release chan struct{}
}

func (u *slowUpstream) apply(_ string, w *wire.Write) *wire.Result {
	u.mu.Lock()
	u.held += wire.OpenSize(w.Body, w.Compression)
	u.mu.Unlock()
	<-u.release
	return &wire.Result{Code: 200, Final: true}
}

func (u *slowUpstream) bytes() int { u.mu.Lock(); defer u.mu.Unlock(); return u.held }

func bigWrites(t *testing.T, r *raw, n, size int, how wire.Compression) {
	body := make([]byte, size)
	if how == wire.Compression_COMPRESSION_ZSTD {
		c, err := wire.NewCompressor()
		if err != nil {
			t.Error(err)
			return
		}
		body, _ = c.Compress(body)
	}
	for i := range n {
		b, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: uint64(i + 1), Kind: "pods", Namespace: "default",
			Name: fmt.Sprintf("a-%d", i), Op: wire.Op_OP_OVERLAY, Uid: "u", Body: body, Compression: how}}})
		if err == nil {
			_, err = r.Write(b)
		}
		if err != nil {
			return // the session ended, which some tests want
		}
	}
}

// What an edge sends waits in its own memory while the API server is slow, not in the hub's: a few MiB at most.
func TestAnEdgesWritesTakeBoundedMemoryInTheHub(t *testing.T) {
	for name, how := range map[string]wire.Compression{"plain": wire.Compression_COMPRESSION_NONE, "bombs": wire.Compression_COMPRESSION_ZSTD} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			up := &slowUpstream{release: make(chan struct{})}
			w.up.apply = up.apply
			r := w.raw("greedy")
			r.hello("greedy")
			const n, size, limit = 60, 1 << 20, 6 << 20
			sent := make(chan struct{})
			go func() { defer close(sent); bigWrites(t, r, n, size, how) }()
			eventually(t, "writes are under way", func() bool { return up.bytes() >= 4*size })
			honest := w.join("honest", edgeConfig{})
			eventually(t, "another edge connects", honest.up)
			if got := up.bytes(); got > limit {
				t.Errorf("the hub holds %d bytes for one edge, expected at most %d", got, limit)
			}
			close(up.release)
			for seen := 0; seen < n; {
				if r.next().GetResult() != nil {
					seen++
				}
			}
			<-sent
		})
	}
}

// A hub that waits for room with an edge must see that the edge is gone, or it would keep its place for ever.
func TestASessionThatWaitsForRoomEndsWithItsEdge(t *testing.T) {
	w := newWorld(t, nil)
	up := &slowUpstream{release: make(chan struct{})}
	w.up.apply = up.apply
	t.Cleanup(func() { close(up.release) })
	r := w.raw("edge-1")
	r.hello("edge-1")
	go bigWrites(t, r, 60, 1<<20, wire.Compression_COMPRESSION_NONE)
	eventually(t, "writes are under way", func() bool { return up.bytes() >= 4<<20 })
	first := w.nodes.session("edge-1")
	// The edge lost its connection and comes again: it takes its own place.
	again := w.raw("edge-1")
	again.hello("edge-1")
	eventually(t, "the new session is there", func() bool { s := w.nodes.session("edge-1"); return s != "" && s != first })
}

// The API server is slow for all edges at once: what they send is bounded in the sum too, and who sends little goes on.
func TestTheWritesOfAllEdgesTakeBoundedMemoryInTheHub(t *testing.T) {
	const edges, each, size, budget = 8, 6, 1 << 20, 6 << 20
	w := newWorld(t, func(cfg *hub.Config) { cfg.MaxHeldBytes = 4 * budget })
	up := &slowUpstream{release: make(chan struct{})}
	w.up.apply = up.apply
	var all []*raw
	var sent sync.WaitGroup
	for i := range edges {
		name := fmt.Sprintf("greedy-%d", i)
		r := w.raw(name)
		r.hello(name)
		all = append(all, r)
		sent.Go(func() { bigWrites(t, r, each, size, wire.Compression_COMPRESSION_NONE) })
	}
	eventually(t, "the budget is used up", func() bool { return up.bytes() >= budget })
	small := w.raw("small")
	small.hello("small")
	for i := range 3 {
		small.send(&wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: uint64(i + 1), Kind: "pods", Namespace: "default", Name: fmt.Sprint(i), Op: wire.Op_OP_OVERLAY, Uid: "u", Body: []byte("ok")}}})
	}
	eventually(t, "an edge that sends little goes on", func() bool {
		return slices.Contains(w.up.seen(), "small pods/2")
	})
	if got, limit := up.bytes(), budget+size; got > limit {
		t.Errorf("the hub holds %d bytes of %d edges, expected at most %d: the budget, and the write that used it up", got, edges, limit)
	}
	close(up.release)
	for _, r := range all {
		for seen := 0; seen < each; {
			if r.next().GetResult() != nil {
				seen++
			}
		}
	}
	sent.Wait()
}
