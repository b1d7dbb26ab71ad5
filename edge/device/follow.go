package device

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// retryFollow is how long the engine waits before it reads the store again after an error.
const retryFollow = time.Second

// Start follows the store's Devices and models until ctx is done.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	e.ctx = ctx
	e.mu.Unlock()
	defer e.rest()
	var kept memories
	for ctx.Err() == nil {
		var err error
		if kept == nil {
			kept, err = e.recall(ctx)
		}
		if err == nil {
			err = e.follow(ctx, kept)
		}
		if err != nil && ctx.Err() == nil {
			e.m.failures.Inc()
			e.deps.Log.Warn("cannot follow the devices of the store, trying again", "error", err)
			select {
			case <-time.After(retryFollow):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// running is Start's context.
func (e *Engine) running() context.Context {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.ctx
}

// rest stops what is put off: it is on the disk, and goes at the next start.
func (e *Engine) rest() {
	for _, d := range e.all() {
		d.mu.Lock()
		d.calm()
		d.mu.Unlock()
	}
}

// memory is what was kept of one device.
type memory struct {
	properties map[string]*twin.Property
	state      stateNote
}

// memories are what was kept and has no entry yet. A name may have had several Devices, of which the notes of former ones
// are left over where this edge was away when they went.
type memories map[incarnation]*memory

type incarnation struct {
	key id
	uid string
}

// recall reads the notes. One that cannot be read is passed over: the device says again what it has.
func (e *Engine) recall(ctx context.Context) (memories, error) {
	kept := memories{}
	of := func(key id, uid string) *memory {
		m := kept[incarnation{key, uid}]
		if m == nil {
			m = &memory{properties: map[string]*twin.Property{}}
			kept[incarnation{key, uid}] = m
		}
		return m
	}
	err := e.deps.Store.Notes(ctx, bucketTwins, func(key string, value []byte) error {
		parts := strings.SplitN(key, "/", 3)
		var n propertyNote
		if err := json.Unmarshal(value, &n); err != nil || len(parts) != 3 || n.Property == nil {
			e.deps.Log.Warn("a stored property cannot be read", "key", key, "error", err)
			return nil
		}
		of(device.ID(parts[0], parts[1]), n.UID).properties[parts[2]] = n.Property
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the twins: %w", err)
	}
	err = e.deps.Store.Notes(ctx, bucketStates, func(key string, value []byte) error {
		var n stateNote
		if err := json.Unmarshal(value, &n); err != nil {
			e.deps.Log.Warn("a stored state cannot be read", "key", key, "error", err)
			return nil
		}
		of(key, n.UID).state = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the states of devices: %w", err)
	}
	return kept, nil
}

// follow brings the engine in step with the store and follows its changes until the store loses track of it.
func (e *Engine) follow(ctx context.Context, kept memories) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	models, since, err := e.deps.Store.List(ctx, object.DeviceModels, "")
	if err != nil {
		return err
	}
	modelEvents, err := e.deps.Store.Watch(ctx, object.DeviceModels, since)
	if err != nil {
		return err
	}
	devices, since, err := e.deps.Store.List(ctx, object.Devices, "")
	if err != nil {
		return err
	}
	deviceEvents, err := e.deps.Store.Watch(ctx, object.Devices, since)
	if err != nil {
		return err
	}
	e.takeModels(models)
	e.takeDevices(ctx, devices, kept)
	select {
	case <-e.ready:
	default:
		close(e.ready)
	}
	again := time.NewTicker(sayAgain / 10)
	defer again.Stop()
	retry := time.NewTicker(retryFollow)
	defer retry.Stop()
	for {
		select {
		case <-again.C:
			e.sayAgain(ctx, sayAgain)
		case <-e.doubted:
			e.sayAgain(ctx, 0)
		case <-retry.C:
			e.declareAgain(ctx)
		case ev, ok := <-modelEvents:
			if !ok {
				return nil
			}
			e.modelChanged(ctx, ev)
		case ev, ok := <-deviceEvents:
			if !ok {
				return nil
			}
			e.deviceChanged(ctx, ev, kept)
		case <-ctx.Done():
			return nil
		}
	}
}

// sayAgain is after how long a status is said again though nothing is new: somebody may have deleted it in the cloud, or a
// backup taken its place. Where it is there already it costs the cloud one read.
const sayAgain = 10 * time.Minute

// SayAgain has every status said again soon: what the cloud has of them may not be what was said last. It does not block.
func (e *Engine) SayAgain() {
	select {
	case e.doubted <- struct{}{}:
	default: // it is to be already
	}
}

// sayAgain says the statuses that were said that long ago.
func (e *Engine) sayAgain(ctx context.Context, after time.Duration) {
	for _, d := range e.all() {
		if ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		if after == 0 || time.Since(d.next) > after {
			d.queued = nil
			e.report(d, e.settle(ctx, d))
		}
		d.mu.Unlock()
	}
}

func decode[T object.Object](e *Engine, r *object.Record) (out T, ok bool) {
	kind, _ := object.Lookup(r.Key.Kind)
	o, err := object.Decode(kind, r.Body)
	if err == nil {
		out, ok = o.(T)
	}
	if !ok {
		e.m.failures.Inc()
		e.deps.Log.Warn("a stored object cannot be read", "key", r.Key.String(), "error", err)
	}
	return out, ok
}

func (e *Engine) takeModels(records []*object.Record) {
	models := map[id]*v1beta1.DeviceModel{}
	for _, r := range records {
		if m, ok := decode[*v1beta1.DeviceModel](e, r); ok {
			models[device.ID(m.Namespace, m.Name)] = m
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.models = models
}

// takeDevices makes the list the whole truth.
func (e *Engine) takeDevices(ctx context.Context, records []*object.Record, kept memories) {
	there := map[id]bool{}
	for _, r := range records {
		there[device.ID(r.Key.Namespace, r.Key.Name)] = true // also what cannot be read
		if d, ok := decode[*v1beta1.Device](e, r); ok {
			e.place(ctx, d, kept)
		}
	}
	for _, d := range e.all() {
		if key := device.ID(d.namespace, d.name); !there[key] {
			e.drop(ctx, key)
		}
	}
	if !e.deps.Store.Synced(object.Devices) {
		return // who is not there may come yet
	}
	for k, m := range kept {
		e.mu.RLock()
		d := e.devices[k.key]
		e.mu.RUnlock()
		switch {
		case d != nil:
			d.mu.Lock()
			for _, name := range d.twin.Names() {
				delete(m.properties, name) // it took the place of the former one's
			}
			e.forget(ctx, k.key, m.properties, d.state.UID == "")
			d.mu.Unlock()
		case there[k.key]:
			continue
		default:
			e.forget(ctx, k.key, m.properties, true)
		}
		delete(kept, k)
	}
}

func (e *Engine) all() []*entry {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*entry, 0, len(e.devices))
	for _, d := range e.devices {
		all = append(all, d)
	}
	return all
}

func (e *Engine) deviceChanged(ctx context.Context, ev object.Event, kept memories) {
	if ev.Type == object.Deleted {
		e.drop(ctx, device.ID(ev.Record.Key.Namespace, ev.Record.Key.Name))
		return
	}
	if d, ok := decode[*v1beta1.Device](e, ev.Record); ok {
		e.place(ctx, d, kept)
	}
}

func (e *Engine) modelChanged(ctx context.Context, ev object.Event) {
	key := device.ID(ev.Record.Key.Namespace, ev.Record.Key.Name)
	var m *v1beta1.DeviceModel
	if ev.Type != object.Deleted {
		var ok bool
		if m, ok = decode[*v1beta1.DeviceModel](e, ev.Record); !ok {
			return
		}
	}
	e.mu.Lock()
	if m == nil {
		delete(e.models, key)
	} else {
		e.models[key] = m
	}
	e.mu.Unlock()
	for _, d := range e.all() {
		d.mu.Lock()
		if modelOf(d.device) == key && !d.gone {
			how := stayed(sameModel(d.model, m))
			d.become(d.device, m)
			e.report(d, e.declare(ctx, d))
			e.placed(d, how)
		}
		d.mu.Unlock()
	}
}

// modelOf names the model of a device; empty for none.
func modelOf(d *v1beta1.Device) id {
	if d.Spec.DeviceModelRef == nil || d.Spec.DeviceModelRef.Name == "" {
		return ""
	}
	return device.ID(d.Namespace, d.Spec.DeviceModelRef.Name)
}

// place takes a Device that is new or changed.
func (e *Engine) place(ctx context.Context, o *v1beta1.Device, kept memories) {
	key := device.ID(o.Namespace, o.Name)
	e.mu.RLock()
	d, model := e.devices[key], e.models[modelOf(o)]
	e.mu.RUnlock()
	isNew := d == nil || d.uid != string(o.UID)
	if isNew {
		if d != nil {
			e.drop(ctx, key)
		}
		d = &entry{namespace: o.Namespace, name: o.Name, uid: string(o.UID), device: o, model: model, twin: twin.New(nil)}
		if m := kept[incarnation{key, d.uid}]; m != nil {
			d.twin, d.state = twin.New(m.properties), m.state
			delete(kept, incarnation{key, d.uid})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if isNew { // nobody finds it before it knows what is declared
		e.mu.Lock()
		e.births++
		d.born, e.devices[key] = e.births, d
		e.mu.Unlock()
	}
	how := Came
	if !isNew {
		how = stayed(sameModel(d.model, model) && sameBesideDesires(d.device, o))
		if o.Generation > d.device.Generation+1 {
			d.queued = nil // what it was meanwhile nobody here saw: it may have been another node's, whose word the cloud shows
		}
	}
	d.become(o, model)
	e.report(d, e.declare(ctx, d))
	e.placed(d, how)
}

func stayed(same bool) Placement {
	if same {
		return Stayed
	}
	return Altered
}

func sameModel(a, b *v1beta1.DeviceModel) bool {
	return a == b || a != nil && b != nil && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// sameBesideDesires reports whether two Devices say the same but for what is desired.
func sameBesideDesires(a, b *v1beta1.Device) bool {
	without := func(d *v1beta1.Device) *v1beta1.DeviceSpec {
		spec := d.Spec.DeepCopy()
		for i := range spec.Properties {
			spec.Properties[i].Desired = nil
		}
		return spec
	}
	return equality.Semantic.DeepEqual(without(a), without(b))
}

// become takes the Device and its model as they are now. Called with d.mu held.
func (d *entry) become(o *v1beta1.Device, model *v1beta1.DeviceModel) {
	if device.Protocol(o, model) != device.Protocol(d.device, d.model) {
		d.told, d.failures = "", nil // another mapper's word, or nobody's
	}
	d.device, d.model = o, model
	if r := reportingOf(o); !r.equal(d.reporting) {
		// Cycles begin anew, and what the cloud is not to have goes from there.
		d.reporting, d.shown, d.shownState, d.queued = r, nil, showing[stateNote]{}, nil
	}
}

// declare takes what the Device and its model say of the properties. Called with d.mu held.
func (e *Engine) declare(ctx context.Context, d *entry) error {
	var all []twin.Declared
	for i := range d.device.Spec.Properties {
		p := &d.device.Spec.Properties[i]
		one := twin.Declared{Name: p.Name, Desired: p.Desired}
		if m := d.modelProperty(p.Name); m != nil {
			one.Type, one.Check = m.Type, func(value string) error { return device.CheckDesired(m, value) }
		}
		all = append(all, one)
	}
	err := e.step(ctx, d, func(at twin.Stamp) (twin.Changes, error) { return d.twin.Declare(all, at), nil })
	d.undeclared = err != nil
	return err
}

// declareAgain takes what Devices say that could not be kept, as while the disk was full.
func (e *Engine) declareAgain(ctx context.Context) {
	for _, d := range e.all() {
		d.mu.Lock()
		if d.undeclared && !d.gone {
			err := e.declare(ctx, d)
			if e.report(d, err); err == nil {
				e.placed(d, Stayed)
			}
		}
		d.mu.Unlock()
	}
}

// placed tells the listeners. Called with d.mu held.
func (e *Engine) placed(d *entry, how Placement) {
	for _, l := range e.deps.Listeners {
		l.Placed(d.namespace, d.name, how)
	}
}

// drop forgets a device that is gone.
func (e *Engine) drop(ctx context.Context, key id) {
	e.mu.Lock()
	d := e.devices[key]
	delete(e.devices, key)
	e.mu.Unlock()
	if d != nil {
		e.end(ctx, d)
	}
}

func (e *Engine) end(ctx context.Context, d *entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	d.calm()
	properties := map[string]*twin.Property{}
	for _, name := range d.twin.Names() {
		properties[name] = nil
	}
	e.forget(ctx, device.ID(d.namespace, d.name), properties, true)
	e.placed(d, Went)
}

// forget removes what was kept of a device.
func (e *Engine) forget(ctx context.Context, key id, properties map[string]*twin.Property, state bool) {
	var notes []Note
	if state {
		notes = append(notes, Note{Bucket: bucketStates, Key: key})
	}
	for name := range properties {
		notes = append(notes, Note{Bucket: bucketTwins, Key: key + "/" + name})
	}
	if err := e.deps.Store.Keep(ctx, notes); err != nil && ctx.Err() == nil {
		e.m.failures.Inc()
		e.deps.Log.Warn("cannot forget a device that is gone", "device", key, "error", err)
	}
}
