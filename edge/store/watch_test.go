package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

// List and Watch together show every change once and in order, whatever is written meanwhile.
func TestListAndWatchLeaveNoGap(t *testing.T) {
	s := newStore(t)
	const writes, readers = 300, 6
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := make(chan struct{})
	wg.Go(func() {
		close(start)
		for i := range writes {
			k := fmt.Sprint("o", i%10)
			in := upsert(t, object.ConfigMaps, configMap(k, "u", uint64(i+1), fmt.Sprint(i)))
			if i%7 == 3 {
				in = gone(cmKey(k), object.CauseDeleted)
			}
			if err := s.ApplyBatch(ctx, []Incoming{in}); err != nil {
				t.Error(err)
				return
			}
		}
		if err := s.ApplyBatch(ctx, []Incoming{upsert(t, object.ConfigMaps, configMap("last", "u", writes+1, ""))}); err != nil {
			t.Error(err)
		}
	})
	<-start
	wg.Go(func() { // lists all the time: none may hold more than its version says
		for done := false; !done; {
			list, rv, err := s.List(ctx, object.ConfigMaps, "")
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range list {
				if r.LocalRV > rv {
					t.Errorf("a list at %d holds %s at %d", rv, r.Key, r.LocalRV)
					return
				}
				done = done || r.Key.Name == "last"
			}
		}
	})
	for range readers {
		wg.Go(func() {
			state := map[string]string{}
			list, rv, err := s.List(ctx, object.ConfigMaps, "")
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range list {
				if r.LocalRV > rv {
					t.Errorf("the list at %d holds %s at %d", rv, r.Key, r.LocalRV)
				}
				state[r.Key.Name] = string(r.Body)
			}
			w, err := s.Watch(ctx, object.ConfigMaps, rv)
			if err != nil {
				t.Error(err)
				return
			}
			for e := range w {
				if e.Record.LocalRV <= rv {
					t.Errorf("event at %d after %d", e.Record.LocalRV, rv)
				}
				rv = e.Record.LocalRV
				name := e.Record.Key.Name
				if _, have := state[name]; have != (e.Type != object.Added) {
					t.Errorf("event %s, but the reader has it: %v", describe(e), have)
				}
				state[name] = string(e.Record.Body)
				if e.Type == object.Deleted {
					delete(state, name)
				}
				if name == "last" {
					break
				}
			}
			final, _, err := s.List(ctx, object.ConfigMaps, "")
			if err != nil {
				t.Error(err)
				return
			}
			if len(final) != len(state) {
				t.Errorf("the reader has %d objects, the store %d", len(state), len(final))
			}
			for _, r := range final {
				if state[r.Key.Name] != string(r.Body) {
					t.Errorf("%s differs", r.Key)
				}
			}
		})
	}
	wg.Wait()
}

func TestWatchOfUnknownVersionsIsExpired(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, "x")))
	_, rv, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, since := range []uint64{0, rv + 10*rvBlock} {
		if _, err := s.Watch(t.Context(), object.ConfigMaps, since); !errors.Is(err, object.ErrExpired) {
			t.Errorf("since %d: got %v, expected ErrExpired", since, err)
		}
	}
	stop()
	s, _ = running(t, cfg, Deps{})
	if _, err := s.Watch(t.Context(), object.ConfigMaps, rv); !errors.Is(err, object.ErrExpired) {
		t.Errorf("since %d after a restart: got %v, expected ErrExpired", rv, err)
	}
	_, now, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil || now <= rv {
		t.Fatalf("after a restart at %d, was %d: %v", now, rv, err)
	}
	if _, err := s.Watch(t.Context(), object.ConfigMaps, now); err != nil {
		t.Errorf("since the list: %v", err)
	}
}

func TestSlowWatcherIsClosedAndCostsABoundedHistory(t *testing.T) {
	s := newStore(t)
	_, rv, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), object.ConfigMaps, rv)
	if err != nil {
		t.Fatal(err)
	}
	var batch []Incoming
	for i := range 3 * feedEvents {
		batch = append(batch, upsert(t, object.ConfigMaps, configMap(fmt.Sprint(i), "u", 5, "x")))
	}
	s.mustBatch(t, batch[0])
	next(t, w) // the watcher follows, and then sleeps
	s.mustBatch(t, batch[1:]...)
	n := 0
	for range w { // ends
		n++
	}
	if n >= 3*feedEvents-1 {
		t.Errorf("%d events were kept for it", n)
	}
	f := s.feed(object.ConfigMaps)
	if len(f.events) > feedEvents || f.bytes > feedBytes {
		t.Errorf("the history has %d events of %d bytes", len(f.events), f.bytes)
	}
}

func TestFirstSyncIsEveryKindOnce(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	kinds := object.Synced()
	if s.Synced(object.Pods) || !s.Synced(object.Leases) {
		t.Error("pods must not be synced at the start, leases always")
	}
	for i, k := range kinds {
		if k.Optional {
			continue
		}
		if s.EverSynced() {
			t.Fatalf("synced after %d kinds", i)
		}
		if err := s.MarkSynced(t.Context(), []object.ID{k.ID(), "from.the.future"}); err != nil {
			t.Fatal(err)
		}
	}
	<-s.FirstSync()
	stop()
	if s, _ = running(t, cfg, Deps{}); !s.EverSynced() || !s.Synced(object.Pods) {
		t.Error("a restart forgot the sync")
	}
}

func TestEpochAndNameSurviveARestart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	id := s.ID()
	if err := s.SetEpoch(t.Context(), "e2"); err != nil || s.Epoch() != "e2" {
		t.Fatalf("epoch %q, %v", s.Epoch(), err)
	}
	stop()
	if s, _ = running(t, cfg, Deps{}); s.Epoch() != "e2" || s.ID() != id || id == "" {
		t.Errorf("epoch %q, id %q, was %q", s.Epoch(), s.ID(), id)
	}
}
