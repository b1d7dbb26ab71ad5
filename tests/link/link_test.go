package link

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func TestChangesAndDeletesArriveAndWhatWasMissedComesAfterACut(t *testing.T) {
	w := newWorld(t, nil)
	w.caches.change(configMap("a"), []byte("one"))
	w.caches.change(configMap("b"), []byte("stays"))
	p := w.proxy()
	e := w.join("edge-1", edgeConfig{addr: p.addr()})
	eventually(t, "the first sync", e.up)
	if got := e.store.get(configMap("a")); got != "one" {
		t.Fatalf("synced, and the store holds %q, want one", got)
	}
	w.caches.change(configMap("a"), []byte("two"))
	eventually(t, "a change arrives", func() bool { return e.store.get(configMap("a")) == "two" })
	w.caches.change(configMap("a"), nil)
	eventually(t, "a delete arrives", func() bool { return e.store.get(configMap("a")) == "" })

	if writes := w.up.seen(); len(writes) > 0 {
		t.Errorf("what was delivered made writes to the API server (I5): %q", writes)
	}

	p.setSilent(true) // the network is gone
	w.caches.change(configMap("c"), []byte("made meanwhile"))
	w.caches.change(configMap("d"), []byte("one"))
	w.caches.change(configMap("d"), []byte("last"))
	before := e.store.committed()
	p.setSilent(false)
	p.cut()
	eventually(t, "what was missed is there", func() bool {
		return e.store.get(configMap("c")) == "made meanwhile" && e.store.get(configMap("d")) == "last" && e.up()
	})
	if n := e.store.committed() - before; n != 2 {
		t.Errorf("%d objects travelled after the cut, want the 2 that differ", n)
	}
}

func TestAWriteStaysInTheOutboxUntilTheAnswerIsFinal(t *testing.T) {
	w := newWorld(t, nil)
	tries := make(chan uint64, 100)
	w.up.apply = func(_ string, wr *wire.Write) *wire.Result {
		tries <- wr.Id
		switch {
		case wr.Name == "poisoned":
			return &wire.Result{Code: 403, Reason: "Forbidden"}
		case len(tries) == 1:
			return &wire.Result{Code: 503}
		}
		return &wire.Result{Code: 200, Final: true, ResourceVersion: 9}
	}
	e := w.join("edge-1", edgeConfig{})
	eventually(t, "the link is up", e.up)
	e.store.write(1, object.Key{Kind: object.Pods, Namespace: "default", Name: "a"})
	eventually(t, "the write was tried again and left the outbox", func() bool { return e.store.waiting() == 0 })
	if len(tries) != 2 {
		t.Errorf("the write was applied %d times, want 2: one 503, one 200", len(tries))
	}
	e.store.write(2, object.Key{Kind: object.Pods, Namespace: "default", Name: "poisoned"})
	e.store.write(3, object.Key{Kind: object.Pods, Namespace: "default", Name: "b"})
	eventually(t, "another key's write passes the poisoned one", func() bool { return e.store.waiting() == 1 })
	if _, ok, _ := e.store.Load(t.Context(), 2); !ok {
		t.Error("the write that was answered 403 left the outbox")
	}
	for _, s := range w.up.seen() {
		if !strings.HasPrefix(s, "edge-1 pods/") {
			t.Errorf("upstream was asked for %q, want writes of edge-1", s)
		}
	}
}

func TestWritesMadeOfflineGoUpAfterAReconnect(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge-1", edgeConfig{})
	eventually(t, "the link is up", e.up)
	w.stop()
	eventually(t, "the edge knows", func() bool { return !e.up() })
	e.store.write(1, object.Key{Kind: object.Pods, Namespace: "default", Name: "a"})
	w.restart()
	eventually(t, "the write went up", func() bool { return e.store.waiting() == 0 })
}

func TestACallIsAnsweredOrFailsAsOfflineAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge-1", edgeConfig{})
	eventually(t, "the link is up", e.up)
	call := object.Call{Verb: "get", Key: object.Key{Kind: object.Pods, Namespace: "default", Name: "a"}}
	r, err := e.Call(t.Context(), call)
	if err != nil || r.Code != 200 || string(r.Body) != "edge-1 get a" {
		t.Errorf("got %d %q, %v", r.Code, r.Body, err)
	}

	// Many at once: each gets its own answer.
	const many = 300
	errs := make(chan error, many)
	for i := range many {
		go func() {
			c := call
			c.Key.Name = fmt.Sprint(i)
			r, err := e.Call(t.Context(), c)
			if err == nil && string(r.Body) != "edge-1 get "+c.Key.Name {
				err = fmt.Errorf("call %d got the answer %q", i, r.Body)
			}
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}

	w.stop()
	eventually(t, "the edge knows", func() bool { return !e.up() })
	start := time.Now()
	if _, err := e.Call(t.Context(), call); !errors.Is(err, object.ErrOffline) || time.Since(start) > time.Second {
		t.Errorf("offline: got %v after %s, want object.ErrOffline at once", err, time.Since(start))
	}
}

func TestACallEndsWithTheLink(t *testing.T) {
	w := newWorld(t, nil)
	under := make(chan struct{})
	w.up.call = func(ctx context.Context, _ string, _ *wire.Call) *wire.Reply {
		close(under)
		<-ctx.Done()
		return &wire.Reply{Code: 504}
	}
	p := w.proxy()
	e := w.join("edge-1", edgeConfig{addr: p.addr()})
	eventually(t, "the link is up", e.up)
	done := make(chan error, 1)
	go func() {
		_, err := e.Call(t.Context(), object.Call{Verb: "get", Key: object.Key{Kind: object.Pods, Name: "a"}})
		done <- err
	}()
	<-under
	p.cut()
	select {
	case err := <-done:
		if !errors.Is(err, object.ErrOffline) {
			t.Errorf("got %v, want object.ErrOffline", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the call still waits 20 s after the link broke")
	}
}

func TestAPingCarriesTheAgeOfTheLease(t *testing.T) {
	w := newWorld(t, nil)
	w.join("edge-1", edgeConfig{ping: 100 * time.Millisecond})
	eventually(t, "the hub hears of the lease", func() bool {
		w.nodes.mu.Lock()
		defer w.nodes.mu.Unlock()
		return w.nodes.leaseAges["edge-1"] == 5*time.Second
	})
}
