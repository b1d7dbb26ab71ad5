package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

const deadline = 10 * time.Second

// fakeStore is a store in memory that can be told to fail; tests/devices has the real one.
type fakeStore struct {
	mu       sync.Mutex // guards all below
	objects  map[object.Key]*object.Record
	rv       uint64
	watchers map[object.ID][]chan object.Event
	notes    map[string]map[string]string
	queued   []object.Outgoing
	keeps    int
	failing  error
	unsynced bool
	// refused are the reads that fail, once for each time they are named; during is called while something is kept.
	refused []string
	during  func()
}

// refuse makes reads fail.
func (s *fakeStore) refuse(reads ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, reads...)
}

// refuses is called with mu held.
func (s *fakeStore) refuses(read string) error {
	if i := slices.Index(s.refused, read); i >= 0 {
		s.refused = slices.Delete(s.refused, i, i+1)
		return errors.New("the disk does not answer")
	}
	return nil
}

func newFakeStore() *fakeStore {
	return &fakeStore{objects: map[object.Key]*object.Record{}, watchers: map[object.ID][]chan object.Event{}, notes: map[string]map[string]string{}}
}

func (s *fakeStore) List(_ context.Context, kind object.ID, _ string) ([]*object.Record, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuses("list"); err != nil {
		return nil, 0, err
	}
	var all []*object.Record
	for k, r := range s.objects {
		if k.Kind == kind {
			all = append(all, r)
		}
	}
	return all, s.rv, nil
}

func (s *fakeStore) Watch(ctx context.Context, kind object.ID, _ uint64) (<-chan object.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan object.Event, 100)
	s.watchers[kind] = append(s.watchers[kind], c)
	return c, nil
}

func (s *fakeStore) Synced(object.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.unsynced
}

func (s *fakeStore) Keep(ctx context.Context, notes []Note, outgoing ...object.Outgoing) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.during != nil {
		s.during()
		s.during = nil
		defer func() { err = errors.Join(err, ctx.Err()) }() // as the store says it, though it goes on
	}
	if s.failing != nil {
		return s.failing
	}
	for _, n := range notes {
		if len(n.Value) > 2<<20 { // store.MaxNoteValue
			return fmt.Errorf("note %s has %d bytes", n.Key, len(n.Value))
		}
	}
	for _, o := range outgoing {
		if err := o.Key.Validate(); err != nil { // as the store does
			return err
		}
	}
	s.keeps++
	for _, n := range notes {
		if s.notes[n.Bucket] == nil {
			s.notes[n.Bucket] = map[string]string{}
		}
		if n.Value == nil {
			delete(s.notes[n.Bucket], n.Key)
		} else {
			s.notes[n.Bucket][n.Key] = string(n.Value)
		}
	}
	for _, o := range outgoing {
		if o.Class == object.ClassState {
			s.queued = slices.DeleteFunc(s.queued, func(q object.Outgoing) bool { return q.Key == o.Key })
		}
		s.queued = append(s.queued, o)
	}
	return nil
}

func (s *fakeStore) Notes(_ context.Context, bucket string, visit func(string, []byte) error) error {
	s.mu.Lock()
	all, err := maps.Clone(s.notes[bucket]), s.refuses("notes")
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if err := visit(k, []byte(all[k])); err != nil {
			return err
		}
	}
	return nil
}

func (s *fakeStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = err
}

// put is a Device or model as the cloud sends it; body, if not empty, is what is stored in its place.
func (s *fakeStore) put(t *testing.T, id object.ID, o object.Object, body string) {
	t.Helper()
	kind, _ := object.Lookup(id)
	o.GetObjectKind().SetGroupVersionKind(kind.GroupVersionKind)
	b, err := object.Encode(kind, o)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		b = []byte(body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rv++
	r := &object.Record{Key: object.KeyOf(id, o), LocalRV: s.rv, Body: b}
	kindOf := object.Added
	if s.objects[r.Key] != nil {
		kindOf = object.Modified
	}
	s.objects[r.Key] = r
	for _, w := range s.watchers[id] {
		w <- object.Event{Type: kindOf, Record: r}
	}
}

func (s *fakeStore) remove(id object.ID, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := object.Key{Kind: id, Namespace: "ns", Name: name}
	r := s.objects[k]
	delete(s.objects, k)
	for _, w := range s.watchers[id] {
		w <- object.Event{Type: object.Deleted, Record: r}
	}
}

// loseTrack closes the watches, as the store does with a reader that is too slow.
func (s *fakeStore) loseTrack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, all := range s.watchers {
		for _, w := range all {
			close(w)
		}
		delete(s.watchers, id)
	}
}

// status is the status of a device that waits for the cloud.
func (s *fakeStore) status(t *testing.T, name string) (r report, ok bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.queued {
		if o.Key == (object.Key{Kind: object.DeviceStatuses, Namespace: "ns", Name: name}) {
			if err := json.Unmarshal(o.Body, &r); err != nil || o.UID != r.UID || o.Op != object.OpPut || o.Class != object.ClassState {
				t.Fatalf("the status is %+v with body %s: %v", o, o.Body, err)
			}
			return r, true
		}
	}
	return r, false
}

func (s *fakeStore) events() (reasons []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.queued {
		if o.Key.Kind == object.Events {
			reasons = append(reasons, string(o.Body))
		}
	}
	return reasons
}

// sent takes all that is queued, as the link does.
func (s *fakeStore) sent() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = len(s.queued)
	s.queued = nil
	return n
}

// ear is a Listener that remembers.
type ear struct {
	mu      sync.Mutex // guards all below
	changes []Change
	placed  []string
}

func (l *ear) Changed(c Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, c)
}

func (l *ear) Placed(_, name string, how Placement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.placed = append(l.placed, map[Placement]string{Came: "+!", Stayed: "=", Altered: "+", Went: "-"}[how]+name)
}

func (l *ear) last() Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.changes) == 0 {
		return Change{}
	}
	return l.changes[len(l.changes)-1]
}

// world is an engine on a store.
type world struct {
	t      *testing.T
	store  *fakeStore
	engine *Engine
	ear    *ear
	stop   func()

	mu  sync.Mutex // guards now
	now time.Time
}

func newWorld(t *testing.T, s *fakeStore) *world {
	t.Helper()
	return newWorldWith(t, s, 0)
}

func newWorldWith(t *testing.T, s *fakeStore, pause time.Duration) *world {
	t.Helper()
	w := &world{t: t, store: s, ear: &ear{}, now: time.UnixMilli(1_000_000)}
	w.engine = New(Config{Node: "edge-1", Pause: pause}, Deps{Store: s, Listeners: []Listener{w.ear}, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.engine.Start(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("start: %v", err)
		}
	})
	t.Cleanup(w.stop)
	select {
	case <-w.engine.Ready():
	case <-time.After(deadline):
		t.Fatal("the engine is not ready")
	}
	return w
}

func (w *world) eventually(what string, ask func() error) {
	w.t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// settled waits until the engine has taken what the store was given.
func (w *world) settled(name string, ask func(View) bool) {
	w.t.Helper()
	w.eventually("device "+name, func() error {
		v, ok := w.engine.Device("ns", name)
		if !ok {
			return errors.New("it is not there")
		}
		if !ask(v) {
			return errors.New("it is not as expected")
		}
		return nil
	})
}

// pump is a Device with a setpoint and a flow, of the model that pumpModel makes.
func pump(name, setpoint string) *v1beta1.Device {
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}, Spec: v1beta1.DeviceSpec{NodeName: "edge-1",
		DeviceModelRef: &v1beta1.ModelReference{Name: "pump"}, Protocol: &v1beta1.ProtocolConfig{ProtocolName: "virtual"},
		Properties: []v1beta1.DeviceProperty{{Name: "setpoint"}, {Name: "flow"}}}}
	if setpoint != "" {
		d.Spec.Properties[0].Desired = &v1beta1.TwinProperty{Value: setpoint}
	}
	return d
}

func pumpModel() *v1beta1.DeviceModel {
	return &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pump"}, Spec: v1beta1.DeviceModelSpec{Protocol: "virtual", Properties: []v1beta1.ModelProperty{
		{Name: "setpoint", Type: v1beta1.Int, Minimum: "0", Maximum: "100"}, {Name: "flow", Type: v1beta1.Float, AccessMode: v1beta1.ReadOnly}}}}
}

func reported(values ...string) (all []v1beta1.Twin) {
	for i := 0; i < len(values); i += 2 {
		all = append(all, v1beta1.Twin{PropertyName: values[i], Reported: &v1beta1.TwinProperty{Value: values[i+1]}})
	}
	return all
}

func (r report) condition(kind string) condition {
	for _, c := range r.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return condition{}
}

func (r report) value(property string) string {
	for _, t := range r.Twins {
		if t.PropertyName == property && t.Reported != nil {
			return t.Reported.Value
		}
	}
	return ""
}
