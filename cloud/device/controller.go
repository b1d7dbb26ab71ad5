package device

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A Controller does what the package says. Make it with New. All methods but Start are safe for concurrent use.
type Controller struct {
	cfg   Config
	deps  Deps
	m     *metrics
	rates *rates
	index *index
	asked *lookups
	// queue holds devices; one is worked on by one worker at a time.
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]

	// mu guards entries and the fields of an entry that say so.
	mu      sync.Mutex
	entries map[types.NamespacedName]*entry
}

// An entry is what is known of one device beside the cache. It lives as long as its Device.
type entry struct {
	// waiting is the newest report that is not written; nil if there is none. Guarded by Controller.mu.
	waiting *pending
	// writing is the report that is being written. Guarded by Controller.mu.
	writing *pending
	// written is the DeviceStatus as the last write left it, at the time at; nil once the cache has it. Guarded by Controller.mu.
	written *v1beta1.DeviceStatus
	at      time.Time
	// writes counts the writes of this CloudCore, print is what had been reported after the last. Guarded by Controller.mu.
	writes uint64
	print  print
	// tracked: the API server keeps managedFields of it that name CloudCore alone. The next patch drops them. Guarded by Controller.mu.
	tracked bool
	// ready is the status of the Ready condition. Guarded by Controller.mu.
	ready metav1.ConditionStatus

	// These are the worker's.
	turn    turn
	contest contest
	memory  memory
}

// A pending report waits for its turn.
type pending struct {
	node   string
	report *Report
	// base is what had been reported when it came, after so many writes of the entry.
	base   print
	writes uint64
	// answer takes one.
	answer chan *wire.Result
}

// New returns a Controller that does nothing until Start.
func New(cfg Config, deps Deps) *Controller {
	cfg = cfg.withDefaults()
	if deps.Now == nil {
		deps.Now = time.Now
	}
	c := &Controller{cfg: cfg, deps: deps, rates: newRates(cfg), index: newIndex(), asked: newLookups(), entries: map[types.NamespacedName]*entry{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](100*time.Millisecond, 30*time.Second))}
	c.m = newMetrics(deps.Registerer, c.countWaiting, c.countReady)
	return c
}

func (c *Controller) countWaiting() float64 {
	return c.count(func(e *entry) bool { return e.waiting != nil })
}

func (c *Controller) countReady(status string) float64 {
	return c.count(func(e *entry) bool { return string(e.ready) == status })
}

func (c *Controller) count(which func(*entry) bool) (n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if which(e) {
			n++
		}
	}
	return n
}

// Start keeps the DeviceStatuses until ctx is done, and then returns nil. It is called once.
func (c *Controller) Start(ctx context.Context) error {
	if err := c.deps.Cache.WaitSynced(ctx); err != nil {
		return nil
	}
	unfollow := c.deps.Cache.Follow([]object.ID{object.Nodes, object.DeviceModels, object.Devices, object.DeviceStatuses}, c.notify)
	var workers sync.WaitGroup
	for range c.cfg.Workers {
		workers.Go(func() { c.work(ctx) })
	}
	<-ctx.Done()
	unfollow()
	c.queue.ShutDown()
	workers.Wait()
	return nil
}

// notify queues the devices that a change concerns.
func (c *Controller) notify(keys []object.Key) {
	for _, k := range keys {
		name := types.NamespacedName{Namespace: k.Namespace, Name: k.Name}
		switch k.Kind {
		case object.Devices, object.DeviceStatuses:
			c.queue.Add(name)
		case object.DeviceModels:
			c.queueAll(c.index.ofModel(name))
		case object.Nodes:
			if c.index.hasNode(k.Name) {
				c.queueAll(c.index.judged(k.Name, c.nodeFault(k.Name)))
			}
		}
	}
}

func (c *Controller) queueAll(devices []types.NamespacedName) {
	for _, d := range devices {
		c.queue.Add(d)
	}
}

func (c *Controller) work(ctx context.Context) {
	for {
		key, quit := c.queue.Get()
		if quit {
			return
		}
		c.workOn(ctx, key)
		c.queue.Done(key)
	}
}

func (c *Controller) workOn(ctx context.Context, key types.NamespacedName) {
	defer func() {
		if p := recover(); p != nil {
			c.m.panics.Inc()
			c.deps.Log.Error("keeping a DeviceStatus panicked: this is a defect of cloudcore; the report stays with the edge",
				"namespace", key.Namespace, "device", key.Name, "panic", p, "stack", string(debug.Stack()))
			c.answer(key, nil, later(500, metav1.StatusReasonInternalError, time.Minute, "cloudcore failed on this device; see its log"))
			c.queue.AddAfter(key, time.Minute)
		}
	}()
	after, err := c.sync(ctx, key)
	switch {
	case err != nil && ctx.Err() == nil:
		c.m.failures.Inc()
		c.deps.Log.Warn("a DeviceStatus is not in order, trying again", "namespace", key.Namespace, "device", key.Name, "error", err)
		c.queue.AddRateLimited(key)
	case after > 0:
		c.queue.AddAfter(key, after)
	default:
		c.queue.Forget(key)
	}
}

// entry is the record of a device.
func (c *Controller) entry(key types.NamespacedName) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entryLocked(key)
}

// entryLocked is entry with c.mu held.
func (c *Controller) entryLocked(key types.NamespacedName) *entry {
	e := c.entries[key]
	if e == nil {
		e = &entry{}
		c.entries[key] = e
	}
	return e
}

// cached returns an object of the cache; nil where it has none.
func cached[T object.Object](c Cache, kind object.ID, key types.NamespacedName) (none T) {
	o, ok := c.Object(object.Key{Kind: kind, Namespace: key.Namespace, Name: key.Name})
	if !ok {
		return none
	}
	if t, ok := o.(T); ok {
		return t
	}
	return none
}

// nodeFault judges the node of that name.
func (c *Controller) nodeFault(node string) nodeFault {
	if node == "" {
		return ReasonNoNode
	}
	return faultOf(cached[*corev1.Node](c.deps.Cache, object.Nodes, types.NamespacedName{Name: node}), c.deps.IsEdge)
}

// placeOf returns what a device refers to.
func placeOf(d *v1beta1.Device) place {
	p := place{node: d.Spec.NodeName, model: types.NamespacedName{Namespace: d.Namespace}}
	if d.Spec.DeviceModelRef != nil {
		p.model.Name = d.Spec.DeviceModelRef.Name
	}
	return p
}

// view looks at a device with all that it is judged by. The index is told first, so that no change after the look is missed.
func (c *Controller) view(key types.NamespacedName, d *v1beta1.Device) view {
	p := placeOf(d)
	c.index.put(key, p)
	v := view{device: d, node: c.nodeFault(p.node)}
	c.queueAll(c.index.judged(p.node, v.node)) // what was found once is remembered, so that its change is news
	if p.model.Name != "" {
		v.model = cached[*v1beta1.DeviceModel](c.deps.Cache, object.DeviceModels, p.model)
	}
	return v
}
