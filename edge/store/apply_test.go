package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

func TestApplyExpectsTheRecordItWasMadeFrom(t *testing.T) {
	s := newStore(t)
	lease := object.Key{Kind: object.Leases, Namespace: "kube-node-lease", Name: testNode}
	r := &object.Record{Key: lease, Version: object.Version{UID: "l"}, Origin: object.FromEdge, Body: []byte("1")}
	first := s.mustApply(t, object.Change{Record: r})
	if _, err := s.Apply(t.Context(), object.Change{Record: r}); !errors.Is(err, object.ErrConflict) {
		t.Fatalf("a second create: got %v, expected ErrConflict", err)
	}
	r2 := *r
	r2.Body = []byte("2")
	second := s.mustApply(t, object.Change{Expect: first.LocalRV, Record: &r2})
	if second.LocalRV <= first.LocalRV {
		t.Fatalf("local resourceVersion %d after %d", second.LocalRV, first.LocalRV)
	}
	if _, err := s.Apply(t.Context(), object.Change{Expect: first.LocalRV, Record: r, Remove: true}); !errors.Is(err, object.ErrConflict) {
		t.Fatalf("a stale removal: got %v, expected ErrConflict", err)
	}
	if got := s.mustGet(t, lease); string(got.Body) != "2" {
		t.Fatalf("body %q", got.Body)
	}
	last := s.mustApply(t, object.Change{Expect: second.LocalRV, Record: r, Remove: true})
	if string(last.Body) != "2" || last.LocalRV <= second.LocalRV {
		t.Fatalf("removal returned body %q at %d", last.Body, last.LocalRV)
	}
	s.mustBeAbsent(t, lease)
}

// A silent move of the cloud's version must not be undone by a write that was built before it (I4).
func TestApplyConflictsWithASilentMoveOfTheCloudsVersion(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	read := s.mustGet(t, podKey("a"))
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 6)))
	if now := s.mustGet(t, podKey("a")); now.LocalRV != read.LocalRV || now.Version.RV != 6 {
		t.Fatalf("after an echo: local %d, was %d; cloud %d", now.LocalRV, read.LocalRV, now.Version.RV)
	}
	if _, err := s.Apply(t.Context(), withStatus(t, read, corev1.PodRunning)); !errors.Is(err, object.ErrConflict) {
		t.Fatalf("got %v, expected ErrConflict", err)
	}
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	if now := s.mustGet(t, podKey("a")); now.Version.RV != 6 {
		t.Fatalf("cloud version %d, expected 6", now.Version.RV)
	}
}

func TestOneFailingChangeSpoilsNoOtherInItsGroup(t *testing.T) {
	s, err := Open(t.Context(), testConfig(t.TempDir()), Deps{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	// All wait before the writer starts, so they form one group.
	errs := make([]error, 20)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			c := object.Change{Record: &object.Record{Key: cmKey(fmt.Sprint(i)), Version: object.Version{UID: "u"}, Body: []byte{1}},
				Outgoing: []object.Outgoing{{Key: cmKey(fmt.Sprint(i)), Op: object.OpPut}}}
			if i%2 == 1 { // fails after its record was written
				huge := event("huge", 1<<20)
				huge.Policy = object.RejectNew
				c.Outgoing = append(c.Outgoing, huge)
			}
			_, errs[i] = s.Apply(context.Background(), c)
		})
	}
	eventually(t, "20 requests wait", func() bool { return len(s.requests) == 20 })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Start(ctx) }()
	wg.Wait()
	for i, err := range errs {
		if bad := i%2 == 1; bad != errors.Is(err, object.ErrFull) {
			t.Errorf("change %d: %v", i, err)
		}
		if _, ok, err := s.Get(t.Context(), cmKey(fmt.Sprint(i))); err != nil || ok == (i%2 == 1) {
			t.Errorf("record %d: found %v, %v", i, ok, err)
		}
	}
	if n := len(s.queue(t)); n != 10 {
		t.Errorf("%d writes queued, expected 10", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.Apply(t.Context(), object.Change{}); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v, expected ErrClosed", err)
	}
}

func TestTombstoneIsADeletionToWatchersAndCountsForTheCloud(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	r := s.mustGet(t, podKey("a"))
	if err := s.SaveToken(t.Context(), "key", "u1", []byte("secret"), s.clock.Now()); err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), object.Pods, r.LocalRV)
	if err != nil {
		t.Fatal(err)
	}
	dead := *r
	dead.Tombstone = true
	s.mustApply(t, object.Change{Expect: r.LocalRV, Record: &dead, Outgoing: []object.Outgoing{{Key: r.Key, UID: "u1", Op: object.OpDelete}}})
	if e := next(t, w); e.Type != object.Deleted || e.Record.LocalRV <= r.LocalRV {
		t.Fatalf("event %s", describe(e))
	}
	s.mustBeAbsent(t, podKey("a"))
	if _, _, ok, _ := s.LoadToken(t.Context(), "key"); ok {
		t.Error("the token of a pod that is gone was not erased")
	}
	before, err := s.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before[object.Pods].Count != 1 {
		t.Fatalf("digest counts %d pods, expected the tombstone", before[object.Pods].Count)
	}
	// The cloud's own updates of it do not bring it back.
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 9)))
	s.mustBeAbsent(t, podKey("a"))
	// Another incarnation does.
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u2", 12)))
	if e := next(t, w); e.Type != object.Added || e.Record.Version.UID != "u2" {
		t.Fatalf("event %s", describe(e))
	}
}
