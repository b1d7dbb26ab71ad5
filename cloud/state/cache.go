package state

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/tether-edge/tether/common/object"
)

// Config holds the limits of a Cache. The zero value of a field means its default.
type Config struct {
	// LookupTimeout bounds one live read of an object that a new pod refers to and the cache lacks. Default 2 s.
	LookupTimeout time.Duration
	// HoldTimeout bounds how long a pod waits for the watch to deliver an object that a live read found. Default 10 s.
	HoldTimeout time.Duration
	// Lookups is how many live reads run at once. Default 16.
	Lookups int
	// MaxCauses is how many deletions of pods for NODE_GONE are remembered, about 100 bytes each. The oldest is
	// forgotten first. Default 65536.
	MaxCauses int
}

func (c Config) withDefaults() Config {
	if c.LookupTimeout <= 0 {
		c.LookupTimeout = 2 * time.Second
	}
	if c.HoldTimeout <= 0 {
		c.HoldTimeout = 10 * time.Second
	}
	if c.Lookups <= 0 {
		c.Lookups = 16
	}
	if c.MaxCauses <= 0 {
		c.MaxCauses = 65536
	}
	return c
}

// A Compressor shrinks bodies. Both methods are safe for concurrent use.
type Compressor interface {
	// Compress returns body unchanged and false where compression does not save anything.
	Compress(body []byte) (out []byte, compressed bool)
	// Decompress is the inverse.
	Decompress(body []byte) ([]byte, error)
}

// Deps are what a Cache uses. All but Kinds are required.
type Deps struct {
	Source     Source
	Compressor Compressor
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Kinds are the kinds to sync; nil means object.Watched().
	Kinds []object.Kind
}

// A Cache holds the cluster's objects. Make it with New; all methods but Start are safe for concurrent use at any time.
type Cache struct {
	cfg  Config
	deps Deps
	m    *metrics
	disp *dispatcher
	sem  chan struct{} // one token per running lookup
	jobs sync.WaitGroup

	// mu guards the graph and everything reachable from it, except the fields that say otherwise.
	mu sync.RWMutex
	g  *graph

	known  atomic.Bool   // the optional kinds have been sorted out: g.kinds is final
	synced chan struct{} // closed once every kind's first list is in
	// running is Start's context for lookups, guarded by mu; nil before Start and after its end.
	running context.Context
	stripes stripes
	// asking lets one read of the API server's revision serve all who ask.
	asking singleflight.Group
}

// New returns a Cache that is empty until Start.
func New(cfg Config, deps Deps) *Cache {
	cfg = cfg.withDefaults()
	if deps.Kinds == nil {
		deps.Kinds = object.Watched()
	}
	c := &Cache{
		cfg: cfg, deps: deps, g: newGraph(deps.Kinds, cfg.MaxCauses), sem: make(chan struct{}, cfg.Lookups),
		synced: make(chan struct{}), stripes: stripes{seed: maphash.MakeSeed()},
	}
	c.m = newMetrics(c)
	c.disp = newDispatcher(c.m)
	deps.Registerer.MustRegister(c.m)
	return c
}

// Start lists and watches until ctx is done, and then returns nil. It returns no other error: an API server that
// cannot be reached is tried again for as long as it takes. It is called once.
func (c *Cache) Start(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.mu.Lock()
	c.running = ctx
	c.mu.Unlock()
	var wg sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		wg.Go(func() { c.disp.run(ctx) })
	}
	c.dropUnserved(ctx)
	// Pods are listed before the rest. So what a listed pod refers to and the later lists lack is really absent, and
	// a cold start needs no live reads.
	first, rest := c.order()
	wg.Go(func() { c.reflect(ctx, first) })
	select {
	case <-first.done:
	case <-ctx.Done():
	}
	for _, k := range rest {
		wg.Go(func() { c.reflect(ctx, k) })
	}
	<-ctx.Done()
	wg.Wait()
	c.mu.Lock()
	c.running = nil
	c.mu.Unlock()
	c.jobs.Wait()
	return nil
}

// dropUnserved takes the optional kinds that the API server does not have out of the set.
func (c *Cache) dropUnserved(ctx context.Context) {
	for _, k := range c.deps.Kinds {
		if !k.Optional {
			continue
		}
		for {
			ok, err := c.deps.Source.Serves(ctx, k)
			if err == nil {
				if !ok {
					c.deps.Log.Info("the API server does not serve an optional kind: it is not synced", "kind", k.ID())
					c.mu.Lock()
					delete(c.g.kinds, k.ID())
					c.mu.Unlock()
				}
				break
			}
			c.deps.Log.Warn("cannot ask the API server which kinds it serves: asking again in a second", "err", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	}
	c.known.Store(true)
	c.checkSynced()
}

// order returns the kind to list first and the others. Without pods any kind may be first.
func (c *Cache) order() (first *kindState, rest []*kindState) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, k := range c.deps.Kinds {
		ks, ok := c.g.kinds[k.ID()]
		switch {
		case !ok:
		case first == nil:
			first = ks
		case k.ID() == object.Pods:
			first, rest = ks, append(rest, first)
		default:
			rest = append(rest, ks)
		}
	}
	return first, rest
}

// checkSynced closes c.synced once everything is in, and then holds back the pods that came meanwhile.
func (c *Cache) checkSynced() {
	if !c.known.Load() {
		return
	}
	c.mu.Lock()
	var ch changes
	done := !c.g.synced && c.g.allListed()
	if done {
		c.g.synced = true
		for _, n := range c.g.nodes {
			c.g.gateNode(n, &ch)
		}
	}
	c.mu.Unlock()
	c.publish(&ch)
	if done {
		close(c.synced)
		c.deps.Log.Info("the caches hold the first list of every kind", "kinds", len(c.Kinds()))
	}
}

// Synced reports whether every kind's first list is in.
func (c *Cache) Synced() bool {
	select {
	case <-c.synced:
		return true
	default:
		return false
	}
}

// WaitSynced blocks until Synced, or returns ctx's error wrapped with the kinds that are not listed yet.
func (c *Cache) WaitSynced(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the first list of %v: %w", c.missing(), ctx.Err())
	}
}

func (c *Cache) missing() []object.ID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []object.ID
	for _, k := range c.deps.Kinds {
		if ks, ok := c.g.kinds[k.ID()]; ok && !ks.listed {
			out = append(out, k.ID())
		}
	}
	return out
}

// Kinds returns the kinds that are watched, in rank order. Optional kinds that the API server lacks leave the list
// during Start, before Synced.
func (c *Cache) Kinds() []object.ID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []object.ID
	for _, k := range c.deps.Kinds {
		if _, ok := c.g.kinds[k.ID()]; ok {
			out = append(out, k.ID())
		}
	}
	return out
}

// ServerRevision asks the API server for its current resourceVersion by a quorum read. A value below what an edge
// holds shows that etcd was restored from a backup.
// Those who ask while it is being read share one read, however many they are.
func (c *Cache) ServerRevision(ctx context.Context) (uint64, error) {
	shared := c.asking.DoChan("", func() (any, error) {
		// The first asker's session may end; the others still want the answer.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revisionTimeout)
		defer cancel()
		return c.deps.Source.Revision(rctx)
	})
	select {
	case r := <-shared:
		if r.Err != nil {
			return 0, fmt.Errorf("read the API server's revision: %w", r.Err)
		}
		return r.Val.(uint64), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("read the API server's revision: %w", ctx.Err())
	}
}

// revisionTimeout bounds one read of the API server's revision.
const revisionTimeout = 10 * time.Second

// Object returns the current object of that key, whoever may see it. It is decoded anew for each call: the caller owns
// it. ok is false where the cache has none.
func (c *Cache) Object(key object.Key) (o object.Object, ok bool) {
	c.mu.RLock()
	ks := c.g.kinds[key.Kind]
	var b *content
	if ks != nil {
		if e := ks.entries[nameOf(key)]; e != nil {
			b = e.content.Load()
		}
	}
	c.mu.RUnlock()
	if b == nil {
		return nil, false
	}
	o, err := c.decode(ks.kind, b)
	if err != nil {
		c.m.bad.WithLabelValues(string(key.Kind)).Inc()
		c.deps.Log.Error("cannot decode an object of the cache", "key", key.String(), "err", err)
		return nil, false
	}
	return o, true
}

func (c *Cache) decode(k object.Kind, b *content) (object.Object, error) {
	data := b.data
	if b.compressed {
		var err error
		if data, err = c.deps.Compressor.Decompress(data); err != nil {
			return nil, err
		}
	}
	return object.Decode(k, data)
}

// publish passes on what a step of the graph changed. It is called without c.mu.
func (c *Cache) publish(ch *changes) {
	if len(ch.dirty) > 0 {
		c.disp.add(ch.dirty)
	}
	for _, l := range ch.lookups {
		c.startLookup(l)
	}
}
