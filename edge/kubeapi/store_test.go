package kubeapi

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// fakeStore keeps the contract of Store in memory.
type fakeStore struct {
	*memory
	mu       sync.Mutex
	unsynced map[object.ID]bool
	outgoing []object.Outgoing
	tokens   map[string]savedToken
}

type savedToken struct {
	podUID  string
	body    []byte
	expires time.Time
}

func newFakeStore() *fakeStore {
	return &fakeStore{memory: newMemory(100, 0), unsynced: map[object.ID]bool{}, tokens: map[string]savedToken{}}
}

func (f *fakeStore) Get(ctx context.Context, key object.Key) (*object.Record, bool, error) {
	rec, ok, err := f.memory.Get(ctx, key)
	return rec, ok && !rec.Tombstone, err
}

func (f *fakeStore) List(ctx context.Context, kind object.ID, ns string) ([]*object.Record, uint64, error) {
	recs, rv, err := f.memory.List(ctx, kind, ns)
	return slices.DeleteFunc(recs, func(r *object.Record) bool { return r.Tombstone }), rv, err
}

func (f *fakeStore) Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error) {
	in, err := f.memory.Watch(ctx, kind, since)
	if err != nil {
		return nil, err
	}
	out := make(chan object.Event)
	go func() {
		defer close(out)
		for e := range in {
			was := e.Previous != nil && !e.Previous.Tombstone
			is := e.Type != object.Deleted && !e.Record.Tombstone
			switch {
			case !was && !is:
				continue
			case was && !is:
				e.Type = object.Deleted
			case !was:
				e = object.Event{Type: object.Added, Record: e.Record}
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *fakeStore) Apply(ctx context.Context, c object.Change) (*object.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rec *object.Record
	if c.Record != nil {
		if old, ok, _ := f.memory.Get(ctx, c.Record.Key); ok && old.Tombstone && c.Expect == 0 {
			c.Expect = old.LocalRV // a tombstone counts as none
		}
		var err error
		if rec, err = f.memory.Apply(ctx, c); err != nil {
			return nil, err
		}
	}
	f.outgoing = append(f.outgoing, c.Outgoing...)
	return rec, nil
}

func (f *fakeStore) Synced(kind object.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.unsynced[kind]
}

func (f *fakeStore) setSynced(kind object.ID, synced bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unsynced[kind] = !synced
}

func (f *fakeStore) LoadToken(_ context.Context, key string) ([]byte, time.Time, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tokens[key]
	return t.body, t.expires, ok, nil
}

func (f *fakeStore) TokenKeys(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Keys(f.tokens), func(a, b string) int { return f.tokens[a].expires.Compare(f.tokens[b].expires) }), nil
}

func (f *fakeStore) SaveToken(_ context.Context, key, podUID string, body []byte, expires time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[key] = savedToken{podUID, body, expires}
	return nil
}

// sent returns the outgoing messages so far.
func (f *fakeStore) sent() []object.Outgoing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.outgoing)
}

// fromCloud stores o as the link would, in place of what is there.
func (f *fakeStore) fromCloud(t testing.TB, kind object.ID, o object.Object) *object.Record {
	t.Helper()
	k, _ := object.Lookup(kind)
	body, err := object.Encode(k, o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := object.VersionOf(o)
	if err != nil {
		t.Fatal(err)
	}
	key := object.KeyOf(kind, o)
	old, ok, _ := f.memory.Get(context.Background(), key)
	c := object.Change{Record: &object.Record{Key: key, Version: v, Body: body}}
	if ok {
		c.Expect = old.LocalRV
		if old.Overlay != nil && old.Version.UID == v.UID {
			overlay, err := object.DecodeOverlay(old.Overlay)
			if err != nil {
				t.Fatal(err)
			}
			merged, err := object.Encode(k, object.Merge(o, overlay))
			if err != nil {
				t.Fatal(err)
			}
			c.Record.Base, c.Record.Body, c.Record.Overlay = body, merged, old.Overlay
		}
	}
	rec, err := f.Apply(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// removed drops an object as a deletion from the cloud does.
func (f *fakeStore) removed(t testing.TB, key object.Key) {
	t.Helper()
	old, ok, _ := f.memory.Get(context.Background(), key)
	if !ok {
		t.Fatalf("%s is not there", key)
	}
	if _, err := f.Apply(context.Background(), object.Change{Expect: old.LocalRV, Record: old, Remove: true}); err != nil {
		t.Fatal(err)
	}
}

// fakeCloud answers calls with a function.
type fakeCloud struct {
	mu     sync.Mutex
	answer func(ctx context.Context, c object.Call) (object.Reply, error)
	calls  []object.Call
}

func (f *fakeCloud) Call(ctx context.Context, c object.Call) (object.Reply, error) {
	f.mu.Lock()
	f.calls = append(f.calls, c)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil {
		return object.Reply{}, object.ErrOffline
	}
	return answer(ctx, c)
}

func (f *fakeCloud) set(answer func(ctx context.Context, c object.Call) (object.Reply, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeCloud) called() []object.Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// fakeClock stands still until it is moved.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
