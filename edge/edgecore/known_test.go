package edgecore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/store"
)

// TestAKubeletWaitsWhilePodsRunThatItsDatabaseLost: the database was made anew from a copy that is older than a pod which runs. A
// kubelet that knew nothing of it would end it.
func TestAKubeletWaitsWhilePodsRunThatItsDatabaseLost(t *testing.T) {
	cfg := joined(t, "edge-1")
	boot := func() (*EdgeCore, func()) { return sealedNode(t, cfg, Deps{Log: slog.New(slog.DiscardHandler)}) }
	e, stop := boot()
	give(t, e.store, "old")
	synced(t, e.store)
	copied := filepath.Join(cfg.DataDir, "store", "tether.db.copy")
	tick, over := time.NewTicker(10*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for there := false; !there; {
		select {
		case <-tick.C:
			_, err := os.Stat(copied)
			there = err == nil
		case <-over:
			t.Fatal("there is no second copy")
		}
	}
	give(t, e.store, "new")
	stop()
	if err := os.Remove(filepath.Join(cfg.DataDir, "store", "tether.db")); err != nil {
		t.Fatal(err)
	}
	e, stop = boot()
	defer stop()
	runs := func(uids ...types.UID) func(context.Context) ([]types.UID, error) {
		return func(context.Context) ([]types.UID, error) { return uids, nil }
	}
	if err := e.waitKnown(t.Context(), runs("uid-old")); err != nil {
		t.Errorf("with what the copy knows: %v", err)
	}
	if err := e.waitKnown(t.Context(), runs()); err != nil {
		t.Errorf("with nothing that runs, as after a boot: %v", err)
	}
	// It waits for the sync, and no longer; a runtime that does not answer yet may run anything.
	for name, running := range map[string]func(context.Context) ([]types.UID, error){
		"a pod that is lost": runs("uid-old", "uid-new"), "no answer": func(context.Context) ([]types.UID, error) { return nil, errors.New("away") }} {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{}, 1)
		waited := make(chan error, 1)
		go func() {
			waited <- e.waitKnown(ctx, func(ctx context.Context) ([]types.UID, error) {
				select {
				case asked <- struct{}{}:
				default:
				}
				return running(ctx)
			})
		}()
		for range 2 { // again: it did not go on
			select {
			case <-asked:
			case err := <-waited:
				t.Fatalf("with %s: it did not wait: %v", name, err)
			}
		}
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("with %s: %v, expected to wait", name, err)
		}
	}
	waited := make(chan error, 1)
	go func() { waited <- e.waitKnown(t.Context(), runs("uid-new")) }()
	give(t, e.store, "new")
	synced(t, e.store)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := e.waitKnown(t.Context(), runs("uid-stranger")); err != nil {
		t.Errorf("after a sync, what runs and is not there is to be ended: %v", err)
	}
}

// give puts a pod into the store, as the cloud would.
func give(t *testing.T, s *store.Store, name string) {
	t.Helper()
	kind, _ := object.Lookup(object.Pods)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "5"}}
	body, err := object.Encode(kind, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyBatch(t.Context(), []store.Incoming{{Key: object.KeyOf(object.Pods, p), Version: object.Version{UID: "uid-" + name, RV: 5}, Body: body}}); err != nil {
		t.Fatal(err)
	}
}

// synced notes that the store has all that the cloud has.
func synced(t *testing.T, s *store.Store) {
	t.Helper()
	var kinds []object.ID
	for _, k := range object.Synced() {
		kinds = append(kinds, k.ID())
	}
	if err := s.MarkSynced(t.Context(), kinds); err != nil {
		t.Fatal(err)
	}
}
