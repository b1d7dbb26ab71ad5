package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

const testNode = "edge-1"

// deadline bounds every wait in these tests.
const deadline = 20 * time.Second

// fakeClock is set by the test.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func testConfig(dir string) Config {
	return Config{Dir: dir, NodeName: testNode, EventQuota: 64 << 10, CopyInterval: time.Hour}
}

// running opens a store and runs it until stop is called or the test ends.
func running(t testing.TB, cfg Config, deps Deps) (s *Store, stop func()) {
	t.Helper()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(t.Context(), cfg, deps)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("start: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return s, stop
}

func newStore(t testing.TB) *Store {
	s, _ := running(t, testConfig(t.TempDir()), Deps{})
	return s
}

func mustKind(id object.ID) object.Kind {
	k, ok := object.Lookup(id)
	if !ok {
		panic("unknown kind " + id)
	}
	return k
}

func encode(t testing.TB, id object.ID, o object.Object) []byte {
	t.Helper()
	b, err := object.Encode(mustKind(id), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode[T object.Object](t testing.TB, id object.ID, b []byte) T {
	t.Helper()
	o, err := object.Decode(mustKind(id), b)
	if err != nil {
		t.Fatal(err)
	}
	return o.(T)
}

// upsert makes an Incoming of an object.
func upsert(t testing.TB, id object.ID, o object.Object) Incoming {
	t.Helper()
	v, err := object.VersionOf(o)
	if err != nil {
		t.Fatal(err)
	}
	return Incoming{Key: object.KeyOf(id, o), Version: v, Body: encode(t, id, o)}
}

func gone(k object.Key, c object.Cause) Incoming { return Incoming{Key: k, Cause: c} }

func meta(namespace, name, uid string, rv uint64) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid), ResourceVersion: object.FormatRV(rv)}
}

func configMap(name, uid string, rv uint64, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: meta("shop", name, uid, rv), Data: map[string]string{"k": value}}
}

func pod(name, uid string, rv uint64) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta("shop", name, uid, rv), Spec: corev1.PodSpec{
		NodeName: testNode, ServiceAccountName: "runner",
		Containers: []corev1.Container{{Name: "c", Image: "demo"}},
		Volumes: []corev1.Volume{
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cred"}}},
			{Name: "p", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		},
	}}
}

func podKey(name string) object.Key {
	return object.Key{Kind: object.Pods, Namespace: "shop", Name: name}
}

func cmKey(name string) object.Key {
	return object.Key{Kind: object.ConfigMaps, Namespace: "shop", Name: name}
}

func (s *Store) mustBatch(t testing.TB, items ...Incoming) {
	t.Helper()
	if err := s.ApplyBatch(t.Context(), items); err != nil {
		t.Fatalf("apply batch: %v", err)
	}
}

func (s *Store) mustApply(t testing.TB, c object.Change) *object.Record {
	t.Helper()
	r, err := s.Apply(t.Context(), c)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return r
}

func (s *Store) mustGet(t testing.TB, k object.Key) *object.Record {
	t.Helper()
	r, ok, err := s.Get(t.Context(), k)
	if err != nil || !ok {
		t.Fatalf("get %s: found %v, error %v", k, ok, err)
	}
	return r
}

func (s *Store) mustBeAbsent(t testing.TB, k object.Key) {
	t.Helper()
	if _, ok, err := s.Get(t.Context(), k); err != nil || ok {
		t.Fatalf("get %s: found %v, error %v, expected nothing", k, ok, err)
	}
}

func (s *Store) queue(t testing.TB) []Head {
	t.Helper()
	var out []Head
	if err := s.Queue(t.Context(), func(h Head) error { out = append(out, h); return nil }); err != nil {
		t.Fatalf("queue: %v", err)
	}
	return out
}

// markAll completes a sync of every kind.
func (s *Store) markAll(t testing.TB) {
	t.Helper()
	var kinds []object.ID
	for _, k := range object.Synced() {
		kinds = append(kinds, k.ID())
	}
	if err := s.MarkSynced(t.Context(), kinds); err != nil {
		t.Fatalf("mark synced: %v", err)
	}
}

// withStatus makes the change that the kubelet makes with a status update.
func withStatus(t testing.TB, r *object.Record, phase corev1.PodPhase) object.Change {
	t.Helper()
	before := decode[*corev1.Pod](t, object.Pods, r.Body)
	after := before.DeepCopy()
	after.Status.Phase = phase
	var previous *object.Overlay
	if r.Overlay != nil {
		var err error
		if previous, err = object.DecodeOverlay(r.Overlay); err != nil {
			t.Fatal(err)
		}
	}
	o, err := object.Extend(previous, before, after)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := object.EncodeOverlay(o)
	if err != nil {
		t.Fatal(err)
	}
	next := *r
	next.Base, next.Overlay, next.Body = r.Cloud(), overlay, encode(t, object.Pods, after)
	return object.Change{Expect: r.LocalRV, Record: &next, Outgoing: []object.Outgoing{{
		Key: r.Key, UID: r.Version.UID, Op: object.OpOverlay, Body: overlay}}}
}

// next receives one event or fails.
func next(t testing.TB, c <-chan object.Event) object.Event {
	t.Helper()
	select {
	case e, ok := <-c:
		if !ok {
			t.Fatal("the watch was closed, expected an event")
		}
		return e
	case <-time.After(deadline):
		t.Fatal("no event in time")
	}
	panic("unreachable")
}

func describe(e object.Event) string {
	return fmt.Sprintf("%d %s %s", e.Type, e.Record.Key.Name, e.Record.Version.UID)
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	end := time.Now().Add(deadline)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		t.Helper()
		t.Log(string(p))
		return len(p), nil
	}), nil))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func contains(s, part string) bool { return strings.Contains(s, part) }

func indexOf(b []byte, part string) int { return bytes.Index(b, []byte(part)) }
