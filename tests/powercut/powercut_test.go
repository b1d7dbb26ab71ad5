package powercut

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/store"
)

// open runs a store on a disk; stop ends it, whatever it says.
func open(t *testing.T, dir string) (s *store.Store, d *Disk, stop func()) {
	t.Helper()
	d, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err = store.Open(t.Context(), store.Config{Dir: dir, NodeName: "edge-1", EventQuota: 1 << 20, CopyInterval: time.Hour}, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Start(ctx) }() // without power it may say anything
	return s, d, func() { cancel(); <-ended; _ = s.Close(); d.Forget() }
}

func notes(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	found := map[string]string{}
	if err := s.Notes(t.Context(), "b", func(k string, v []byte) error { found[k] = string(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return found
}

// batch is a change of a ConfigMap by the cloud, which no commit waits for.
func batch(t *testing.T, s *store.Store, rv int) {
	t.Helper()
	kind, _ := object.Lookup(object.ConfigMaps)
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: types.UID("u"), ResourceVersion: fmt.Sprint(rv)}}
	body, err := object.Encode(kind, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyBatch(t.Context(), []store.Incoming{{Key: object.KeyOf(object.ConfigMaps, c), Version: object.Version{UID: "u", RV: uint64(rv)}, Body: body}}); err != nil {
		t.Fatal(err)
	}
}

func versionOf(t *testing.T, s *store.Store) uint64 {
	t.Helper()
	all, _, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		return 0
	}
	return all[0].Version.RV
}

// What a store was told to keep is there after any number of power cuts, wherever they fall and whatever of the rest they leave.
func TestWhatAStoreKeptOutlivesPowerCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	dir, want, rv, lost := filepath.Join(t.TempDir(), "0"), map[string]string{}, 0, 0
	for round := range 40 {
		s, d, stop := open(t, dir)
		if st := s.Status(); st.Damaged != "" {
			t.Fatalf("round %d: the cut left a damaged database: %+v", round, st)
		}
		if found := notes(t, s); fmt.Sprint(found) != fmt.Sprint(want) {
			t.Fatalf("round %d: found %v, expected %v", round, found, want)
		}
		if found := versionOf(t, s); found > uint64(rv) {
			t.Fatalf("round %d: found version %d, the last was %d", round, found, rv)
		} else if found < uint64(rv) {
			lost++
		}
		for range 1 + random.IntN(8) {
			if random.IntN(2) == 0 {
				key, value := fmt.Sprint(random.IntN(20)), fmt.Sprint(random.Uint64())
				if err := s.Keep(t.Context(), []store.Note{{Bucket: "b", Key: key, Value: []byte(value)}}); err != nil {
					t.Fatal(err)
				}
				want[key] = value
			} else {
				rv++
				batch(t, s, rv)
			}
		}
		dir = filepath.Join(t.TempDir(), fmt.Sprint(round+1))
		if err := d.Cut(dir, func() bool { return random.IntN(3) == 0 }); err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(t.Context(), []store.Note{{Bucket: "b", Key: "late", Value: []byte("x")}}); err == nil {
			t.Fatal("a store without power says that it kept something")
		}
		stop()
	}
	if lost == 0 {
		t.Error("no cut lost a batch that nothing waited for: they cut nothing")
	}
}
