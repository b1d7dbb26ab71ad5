package state

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tether-edge/tether/common/object"
)

// chunk is how many objects of a list are taken in under one hold of the lock, so that views are not kept waiting.
const chunk = 512

// reflect keeps one kind up to date until ctx is done.
func (c *Cache) reflect(ctx context.Context, k *kindState) {
	log := logr.FromSlogHandler(c.deps.Log.With("kind", string(k.id)).Handler())
	example, err := object.New(k.kind)
	if err != nil {
		c.deps.Log.Error("a kind is in the list of kinds and not in the scheme", "err", err)
		return
	}
	r := cache.NewReflectorWithOptions(c.counted(k), example, &store{c: c, k: k}, cache.ReflectorOptions{
		Name: string(k.id), Logger: &log,
		// client-go's own goes to a minute: too long for edges that wait. One CloudCore has some 13 watches.
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 5 * time.Second},
	})
	r.RunWithContext(klog.NewContext(ctx, log))
}

// counted is the source's list and watch, with every request counted. A list never takes what a watch cache happens to
// hold (resourceVersion 0): it could be older than what this process or an edge has seen.
func (c *Cache) counted(k *kindState) cache.ListerWatcher {
	src := c.deps.Source.ListWatch(k.kind)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			c.m.lists.WithLabelValues(string(k.id)).Inc()
			if o.ResourceVersion == "0" {
				o.ResourceVersion, o.ResourceVersionMatch = "", ""
			}
			return src.ListWithContext(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			c.m.watches.WithLabelValues(string(k.id)).Inc()
			return src.WatchWithContext(ctx, o)
		},
	}
}

// A store is what the reflector of one kind writes into (cache.ReflectorStore and its optional parts).
type store struct {
	c *Cache
	k *kindState
}

var (
	_ cache.TransformingStore      = (*store)(nil)
	_ cache.ReflectorBookmarkStore = (*store)(nil)
)

// Transformer makes client-go keep arrivals, not decoded objects, while a streamed list comes in.
func (s *store) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.arrival(o) }
}

// arrival takes an object apart, once.
func (s *store) arrival(o any) (*arrival, error) {
	switch v := o.(type) {
	case *arrival:
		return v, nil
	case object.Object:
		a := newArrival(s.k.kind, v)
		if a.err != nil {
			s.c.m.bad.WithLabelValues(string(s.k.id)).Inc()
			s.c.deps.Log.Error("cannot take in an object: it stays as it was", "kind", string(s.k.id),
				"namespace", a.name.namespace, "name", a.name.name, "err", a.err)
		} else {
			s.c.m.encodes.WithLabelValues(string(s.k.id)).Inc()
		}
		return a, nil
	}
	return nil, fmt.Errorf("%s: a %T came down the watch", s.k.id, o)
}

// Add takes in an object that is new or was changed.
func (s *store) Add(o any) error {
	a, err := s.arrival(o)
	if err != nil || a.err != nil {
		return err // the error of a is reported already
	}
	var ch changes
	s.c.mu.Lock()
	s.c.g.put(s.k, a, false, &ch)
	s.c.g.advance(s.k, a.content.version.RV)
	s.c.mu.Unlock()
	s.c.publish(&ch)
	return nil
}

// Update is Add.
func (s *store) Update(o any) error { return s.Add(o) }

// Delete takes an object away. o is its last state, with the resourceVersion of the deletion.
func (s *store) Delete(o any) error {
	a, err := s.arrival(o)
	if err != nil {
		return err
	}
	var ch changes
	s.c.mu.Lock()
	s.c.g.remove(s.k, a.name, a.collected, &ch)
	if a.err == nil {
		s.c.g.advance(s.k, a.content.version.RV)
	}
	s.c.mu.Unlock()
	s.c.publish(&ch)
	return nil
}

// Bookmark notes that nothing else has changed up to rv.
func (s *store) Bookmark(rv string) error {
	v, err := object.ParseRV(rv)
	if err != nil {
		return fmt.Errorf("bookmark of %s: %w", s.k.id, err)
	}
	s.c.mu.Lock()
	s.c.g.advance(s.k, v)
	s.c.mu.Unlock()
	return nil
}

// Resync does nothing: there is no queue to fill again.
func (s *store) Resync() error { return nil }

// Replace makes the list the whole truth: what is not in it is deleted.
func (s *store) Replace(list []any, rv string) error {
	at, err := object.ParseRV(rv)
	if err != nil {
		return fmt.Errorf("list of %s: %w", s.k.id, err)
	}
	// A list of an older cluster says so before it shows anything: who takes an object from it must know that it is old.
	s.c.mu.Lock()
	before := s.k.revision.Load()
	if at < before {
		s.c.g.advance(s.k, at)
	}
	s.c.mu.Unlock()
	names := make(map[name]struct{}, len(list))
	for len(list) > 0 {
		n := min(chunk, len(list))
		batch := make([]*arrival, 0, n)
		for _, o := range list[:n] {
			a, err := s.arrival(o)
			if err != nil {
				return err
			}
			names[a.name] = struct{}{}
			if a.err == nil {
				batch = append(batch, a)
			}
		}
		list = list[n:]
		s.apply(func(ch *changes) {
			for _, a := range batch {
				s.c.g.put(s.k, a, !s.k.listed, ch)
			}
		})
	}
	s.removeAllBut(names)
	s.finish(before, at)
	return nil
}

func (s *store) apply(step func(*changes)) {
	var ch changes
	s.c.mu.Lock()
	step(&ch)
	s.c.mu.Unlock()
	s.c.publish(&ch)
}

func (s *store) removeAllBut(names map[name]struct{}) {
	var gone []name
	s.c.mu.RLock()
	for n, e := range s.k.entries {
		if _, ok := names[n]; !ok && e.present() {
			gone = append(gone, n)
		}
	}
	s.c.mu.RUnlock()
	for len(gone) > 0 {
		n := min(chunk, len(gone))
		s.apply(func(ch *changes) {
			for _, g := range gone[:n] {
				s.c.g.remove(s.k, g, false, ch)
			}
		})
		gone = gone[n:]
	}
}

// finish ends the taking in of a list of revision at, which came after revision before.
func (s *store) finish(before, at uint64) {
	s.c.mu.Lock()
	first := !s.k.listed
	s.k.listed = true
	s.c.g.advance(s.k, at)
	s.c.mu.Unlock()
	if before > at {
		s.c.m.restores.WithLabelValues(string(s.k.id)).Inc()
		s.c.deps.Log.Warn("the API server went back to an older revision: was etcd restored?", "kind", string(s.k.id),
			"before", before, "now", at)
	}
	if first {
		close(s.k.done)
		s.c.checkSynced()
	}
}
