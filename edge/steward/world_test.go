package steward

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// world is a store in memory, a link and a machine.
type world struct {
	t  *testing.T
	mu sync.Mutex

	records     map[object.Key]*object.Record
	rv          uint64
	watches     []chan object.Event
	undelivered map[string]bool
	notes       map[string]string
	connected   bool
	syncing     bool // there is a session, and not all that the cloud has is here
	running     map[string][]types.UID
	events      []string
	shown       []Summary
	unshown     int // how often showing fails
	booted      time.Time
	boot        string
}

func newWorld(t *testing.T) *world {
	return &world{t: t, records: map[object.Key]*object.Record{}, undelivered: map[string]bool{}, notes: map[string]string{}, booted: time.Now(), boot: "first"}
}

func (w *world) Get(_ context.Context, k object.Key) (*object.Record, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.records[k]
	return r, ok, nil
}

func (w *world) List(_ context.Context, kind object.ID, _ string) (list []*object.Record, rv uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, r := range w.records {
		if k.Kind == kind {
			list = append(list, r)
		}
	}
	return list, w.rv, nil
}

func (w *world) Watch(ctx context.Context, _ object.ID, _ uint64) (<-chan object.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan object.Event, 100)
	w.watches = append(w.watches, ch)
	return ch, nil
}

func (w *world) Apply(_ context.Context, c object.Change) (*object.Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, have := w.records[c.Record.Key], uint64(0)
	if old != nil {
		have = old.LocalRV
	}
	if have != c.Expect {
		return nil, object.ErrConflict
	}
	w.rv++
	e := object.Event{Type: object.Modified}
	next := *c.Record
	next.LocalRV = w.rv
	switch {
	case c.Remove:
		e.Type = object.Deleted
		delete(w.records, c.Record.Key)
	case old == nil:
		e.Type = object.Added
		fallthrough
	default:
		w.records[c.Record.Key] = &next
	}
	e.Record, e.Previous = &next, old
	if c.Remove {
		e.Record = old
	}
	for _, ch := range w.watches {
		ch <- e
	}
	return &next, nil
}

func (w *world) Undelivered(context.Context) (map[string]bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.undelivered), nil
}

func (w *world) Keep(_ context.Context, key string, value []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.notes[key] = string(value); value == nil {
		delete(w.notes, key)
	}
	return nil
}

func (w *world) Notes(_ context.Context, visit func(string, []byte) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, v := range w.notes {
		if err := visit(k, []byte(v)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) State() (bool, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected, w.connected && !w.syncing
}

// sandboxes is what the runtime runs; nil if it does not say.
func (w *world) sandboxes(context.Context) (map[string][]types.UID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == nil {
		return nil, errors.New("the runtime is coming up")
	}
	return maps.Clone(w.running), nil
}

func (w *world) runs(running map[string][]types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = running
}

func (w *world) Event(pod *corev1.Pod, _, reason, _ string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, reason+" "+pod.Name)
}

func (w *world) show(_ context.Context, s Summary) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unshown > 0 {
		w.unshown--
		return object.ErrFull
	}
	w.shown = append(w.shown, s)
	return nil
}

// put stores what a test has made.
func (w *world) put(p seen) {
	w.t.Helper()
	kind, _ := object.Lookup(object.Pods)
	body, err := object.Encode(kind, p.Pod)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &object.Record{Key: object.KeyOf(object.Pods, p.Pod), Version: object.Version{UID: string(p.UID), RV: 1}, Body: body, Held: p.Held, Withheld: p.Withheld}
	if p.Local {
		r.Origin, r.Version.RV = object.FromEdge, 0
	}
	w.mu.Lock()
	w.undelivered[string(p.UID)] = p.Undelivered
	expect := uint64(0)
	if old := w.records[r.Key]; old != nil {
		expect = old.LocalRV
	}
	w.mu.Unlock()
	if _, err := w.Apply(w.t.Context(), object.Change{Expect: expect, Record: r}); err != nil {
		w.t.Fatal(err)
	}
}

// remove takes a pod away, as the kubelet does at last.
func (w *world) remove(name string) {
	w.t.Helper()
	p := w.pod(name)
	if _, err := w.Apply(w.t.Context(), object.Change{Expect: p.rec.LocalRV, Record: p.rec, Remove: true}); err != nil {
		w.t.Fatal(err)
	}
}

type stored struct {
	*corev1.Pod
	rec *object.Record
}

// pod returns the pod whose name begins so, or none.
func (w *world) pod(prefix string) stored {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, r := range w.records {
		if k.Kind == object.Pods && strings.HasPrefix(k.Name, prefix) {
			p, err := podOf(r)
			if err != nil {
				w.t.Fatal(err)
			}
			return stored{p, r}
		}
	}
	return stored{}
}

func (w *world) connect(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connected = yes
}

// run has a new Steward at work. It returns it, and what ends it.
func (w *world) run(cfg Config) (*Steward, func()) {
	w.t.Helper()
	cfg.NodeName = "edge-1"
	s, err := New(cfg, Deps{Store: w, Link: w, Events: w, Show: w.show, Sandboxes: w.sandboxes, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Boot: Boot{ID: w.boot, Uptime: func() time.Duration { return time.Since(w.booted) }}})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	<-s.Settled()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		kind, _ := object.Lookup(object.Nodes)
		n := node()
		n.Name, n.UID = "edge-1", "node-uid"
		body, err := object.Encode(kind, n)
		if err != nil {
			t.Fatal(err)
		}
		key := object.KeyOf(object.Nodes, n)
		w.records[key] = &object.Record{Key: key, Version: object.Version{UID: "node-uid", RV: 1}, Body: body, LocalRV: 1}
		f(t, w)
	})
}

// noted returns a note, count how many there are.
func (w *world) noted(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.notes[key]
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.notes)
}

// pass lets fake time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
