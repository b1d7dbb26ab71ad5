package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// A Note is what the engine keeps of one property or device: see store.Note.
type Note struct {
	Bucket, Key string
	Value       []byte
}

// Store is the node's store.
type Store interface {
	List(ctx context.Context, kind object.ID, namespace string) ([]*object.Record, uint64, error)
	Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error)
	// Synced reports whether the store holds all that the cloud has of a kind: what is not there does not exist.
	Synced(kind object.ID) bool
	// Keep writes notes and queues writes, all or nothing, and returns when they are on the disk.
	Keep(ctx context.Context, notes []Note, outgoing ...object.Outgoing) error
	Notes(ctx context.Context, bucket string, visit func(key string, value []byte) error) error
}

// A Listener hears what happened, in order for each device. Its methods must not block and must not call the Engine. What
// they are given is theirs to keep and not to change.
type Listener interface {
	// Changed: properties of the twin are other than they were, or were reported again.
	Changed(c Change)
	// Placed: the device is there, or went.
	Placed(namespace, name string, how Placement)
}

// A Placement is how a device is there.
type Placement int

const (
	// Came: the node has the device now.
	Came Placement = iota
	// Stayed: nothing is new of it but, perhaps, what is desired.
	Stayed
	// Altered: what its Device or its model say beside what is desired is other than it was.
	Altered
	// Went: the node has it no more.
	Went
)

// A Change is one step of a device's twin.
type Change struct {
	Namespace, Name string
	// Last and Current are the properties that changed; nil where one was or is not there.
	Last, Current map[string]*twin.Property
	// Desired: the effective desired value of some property changed.
	Desired bool
	// Pending are the properties that have not reported what is desired of them, after the change.
	Pending map[string]*twin.Property
}

// Config says which node this is.
type Config struct {
	Node string
	// Pause is the least time between two statuses of one device that are queued for the cloud. The first goes at once; what
	// is reported meanwhile goes with the next.
	Pause time.Duration
}

// Deps are what an Engine works with; all but Listeners are required.
type Deps struct {
	Store      Store
	Listeners  []Listener
	Log        *slog.Logger
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// Errors of the Engine, beside those of the Store and of twin.
var (
	// ErrUnknown: this node has no such device.
	ErrUnknown = errors.New("this node has no such device")
	// ErrInvalid: what was said of a device cannot be.
	ErrInvalid = errors.New("invalid")
)

// id names a device or a model: namespace/name.
type id = string

// Engine is made with New.
type Engine struct {
	cfg  Config
	deps Deps
	m    *metrics
	// ready is closed once the devices of the store are known.
	ready chan struct{}
	// doubted has every status said again.
	doubted chan struct{}

	mu      sync.RWMutex // guards all below; no entry's is taken while it is held
	devices map[id]*entry
	models  map[id]*v1beta1.DeviceModel
	mappers map[string]mapperState // by protocol
	births  uint64                 // entries made
	ctx     context.Context        // Start's
}

// mapperState is what is known of the mapper of a protocol.
type mapperState struct{ connected bool }

// An entry is one device. It stays the same for as long as the Device has the uid.
type entry struct {
	namespace, name, uid string

	mu     sync.Mutex // guards all below, and orders the steps
	born   uint64     // tells it from others of the name, and from itself before what it reported was forgotten
	device *v1beta1.Device
	model  *v1beta1.DeviceModel
	twin   *twin.Twin
	state  stateNote
	// told is why the mapper does not know the device as it is; empty if it does, or has not been told.
	told string
	// refusals are by property, and may be of what was desired before.
	refusals map[string]refusal
	// failures say, by property, why the mapper does not report what the device has.
	failures map[string]string
	// queued are the conditions of the last status that was queued; nil before the first one, and where another is due.
	queued []condition
	// next is when another status may be queued. At dueAt, where there may be one to queue, due runs; owed says that there is.
	next  time.Time
	owed  bool
	due   *time.Timer
	dueAt time.Time
	// reporting is what the cloud is shown, as the Device says; shown and shownState what it was shown last of what has a cycle.
	reporting  reporting
	shown      map[string]showing[*twin.Value]
	shownState showing[stateNote]
	cramped    bool // what was observed of desires that hold no more is not shown: there is no room for it
	// undeclared: what the Device says could not be kept. It is tried again.
	undeclared bool
	gone       bool
}

// New returns an Engine that knows no devices until Start.
func New(cfg Config, deps Deps) *Engine {
	e := &Engine{cfg: cfg, deps: deps, ready: make(chan struct{}), doubted: make(chan struct{}, 1), devices: map[id]*entry{}, models: map[id]*v1beta1.DeviceModel{}, mappers: map[string]mapperState{}}
	e.m = newMetrics(deps.Registerer, e.count)
	return e
}

func (e *Engine) count() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.devices)
}

// Ready is closed once the devices of the store are known.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// find returns a device. It waits for the devices to be known.
func (e *Engine) find(ctx context.Context, namespace, name string) (*entry, error) {
	select {
	case <-e.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the devices to be known: %w", ctx.Err())
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	d := e.devices[device.ID(namespace, name)]
	if d == nil {
		return nil, fmt.Errorf("%w: %.80q in namespace %.80q", ErrUnknown, name, namespace)
	}
	return d, nil
}

// Report takes what a device has and what its mapper has seen desired: all of it or nothing, together with notes of the caller's own.
// Values are taken as the mapper says them, of whatever type: what the device has, it has.
func (e *Engine) Report(ctx context.Context, namespace, name string, twins []v1beta1.Twin, notes ...Note) error {
	updates := map[string]twin.Update{}
	for i := range twins {
		if _, ok := failed(&twins[i]); ok {
			continue // it says nothing of values
		}
		one := twin.Update{Reported: twins[i].Reported}
		if seen := twins[i].ObservedDesired; seen != nil {
			one.Observed = &seen.Value
		}
		if one.Reported != nil || one.Observed != nil {
			updates[twins[i].PropertyName] = one
		}
	}
	return e.update(ctx, namespace, name, said{updates: updates, refusals: refusals(twins), failures: failures(twins)}, notes)
}

// Desire takes what a method call desires of the device with that uid: all of it or nothing, together with notes of the
// caller's own. The mapper is told of it also where the values are desired already. Errors are those of Update.
func (e *Engine) Desire(ctx context.Context, namespace, name, uid, call string, values map[string]string, notes ...Note) error {
	updates := make(map[string]twin.Update, len(values))
	for property, value := range values {
		updates[property] = twin.Update{Desired: &v1beta1.TwinProperty{Value: value}, Call: call}
	}
	return e.update(ctx, namespace, name, said{uid: uid, updates: updates}, notes)
}

// Update takes what a client at the edge says of a device: all of it or nothing. The client is answered with what is desired then.
// Errors are ErrUnknown, ErrInvalid, twin.ErrTooMany, twin.ErrTooLong, and those of the Store.
func (e *Engine) Update(ctx context.Context, namespace, name string, updates map[string]twin.Update) error {
	told := make(map[string]twin.Update, len(updates))
	for property, u := range updates {
		u.Told = true
		told[property] = u
	}
	return e.update(ctx, namespace, name, said{updates: told}, nil)
}

// said is what somebody says of a device. Where uid is not empty it is of that uid.
type said struct {
	uid      string
	updates  map[string]twin.Update
	refusals map[string]refusal
	failures map[string]string
}

func (e *Engine) update(ctx context.Context, namespace, name string, s said, notes []Note) error {
	d, err := e.find(ctx, namespace, name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone || s.uid != "" && s.uid != d.uid {
		return fmt.Errorf("%w: %.80q in namespace %.80q", ErrUnknown, name, namespace)
	}
	for property, u := range s.updates {
		if err := d.judge(property, u); err != nil {
			return err
		}
	}
	refusals, failures := maps.Clone(d.refusals), maps.Clone(d.failures)
	d.hear(s.refusals)
	d.hearFailures(s.failures)
	e.m.updates.Inc()
	forgotten := d.forgets(s.updates)
	err = e.step(ctx, d, func(at twin.Stamp) (twin.Changes, error) {
		changes, err := d.twin.Apply(stamped(s.updates, e.deps.Now()), at)
		if err == nil && !fits(d.twin.Now()) {
			d.twin.Revert(changes)
			err = fmt.Errorf("%w: with names and metadata a device has room for %d bytes of JSON", twin.ErrTooLong, v1beta1.MaxReport)
		}
		return changes, err
	}, notes...)
	if err != nil {
		d.refusals, d.failures = refusals, failures // what was not taken says nothing
	}
	if err == nil && forgotten {
		e.askAnew(d)
	}
	return err
}

// forgets reports whether updates take away what the device reported of its own. Called with mu held.
func (d *entry) forgets(updates map[string]twin.Update) bool {
	for name, u := range updates {
		if !u.Remove {
			continue
		}
		if p := d.twin.Property(name); p != nil && p.Own && p.Reported != nil {
			return true
		}
	}
	return false
}

// askAnew has the mapper take the device for another one of the name, so that it says again what it reported: it says what changes, and
// what was forgotten here has not. Called with d.mu held.
func (e *Engine) askAnew(d *entry) {
	e.mu.Lock()
	e.births++
	d.born = e.births
	e.mu.Unlock()
	e.placed(d, Stayed)
}

// stamped gives values that carry no time the one at which they arrived. That is the clock's: a Stamp remembers the latest that it ever showed.
func stamped(updates map[string]twin.Update, at time.Time) map[string]twin.Update {
	out := make(map[string]twin.Update, len(updates))
	for property, u := range updates {
		u.Desired, u.Reported = withTime(u.Desired, at), withTime(u.Reported, at)
		out[property] = u
	}
	return out
}

func withTime(v *v1beta1.TwinProperty, at time.Time) *v1beta1.TwinProperty {
	if v == nil || v.Metadata["timestamp"] != "" {
		return v
	}
	out := &v1beta1.TwinProperty{Value: v.Value, Metadata: map[string]string{"timestamp": fmt.Sprint(at.UnixMilli())}}
	for k, x := range v.Metadata {
		if k != "timestamp" {
			out.Metadata[k] = x
		}
	}
	return out
}

// judge refuses what cannot be. Called with mu held.
func (d *entry) judge(property string, u twin.Update) error {
	if property == "" || len(property) > v1beta1.MaxPropertyName {
		return fmt.Errorf("%w: the name of a property has %d bytes, expected 1 to %d", ErrInvalid, len(property), v1beta1.MaxPropertyName)
	}
	for _, v := range []*v1beta1.TwinProperty{u.Desired, u.Reported} {
		if v == nil {
			continue
		}
		if err := device.CheckMetadata(v.Metadata); err != nil {
			return fmt.Errorf("%w: property %q: %w", ErrInvalid, property, err)
		}
	}
	m := d.modelProperty(property)
	if m == nil {
		return d.judgeAlone(property, u)
	}
	if u.Told && u.Reported != nil {
		if err := device.CheckValue(m.Type, u.Reported.Value); err != nil {
			return fmt.Errorf("%w: property %q: %w", ErrInvalid, property, err)
		}
	}
	if u.Desired == nil || u.Desired.Value == "" {
		return nil
	}
	if err := device.CheckDesired(m, u.Desired.Value); err != nil {
		return fmt.Errorf("%w: property %q: %w", ErrInvalid, property, err)
	}
	return nil
}

// judgeAlone refuses values that are none of the type that clients say of a property which the Device does not name. Of words that are no type
// here, as KubeEdge's clients say "Updated", follows nothing. Called with mu held.
func (d *entry) judgeAlone(property string, u twin.Update) error {
	p := d.twin.Property(property)
	if !u.Told || p != nil && p.Own {
		return nil
	}
	kind := u.Type
	if kind == "" && p != nil {
		kind = p.Type
	}
	if !slices.Contains([]v1beta1.PropertyType{v1beta1.Int, v1beta1.Float, v1beta1.Double, v1beta1.Boolean, v1beta1.Stream}, kind) {
		return nil
	}
	for _, v := range []*v1beta1.TwinProperty{u.Reported, u.Desired} {
		if v == nil || v == u.Desired && v.Value == "" {
			continue
		}
		if err := device.CheckValue(kind, v.Value); err != nil {
			return fmt.Errorf("%w: property %q: %w", ErrInvalid, property, err)
		}
	}
	return nil
}

func (d *entry) modelProperty(name string) *v1beta1.ModelProperty {
	if d.model == nil {
		return nil
	}
	for i := range d.model.Spec.Properties {
		if d.model.Spec.Properties[i].Name == name {
			return &d.model.Spec.Properties[i]
		}
	}
	return nil
}

// step does one step of a twin: it is on the disk, with the status that follows and the notes beside, before anybody hears of
// it; where that fails it was not done. Called with d.mu held.
func (e *Engine) step(ctx context.Context, d *entry, do func(at twin.Stamp) (twin.Changes, error), beside ...Note) error {
	changes, err := do(d.twin.Last().Next(e.deps.Now()))
	if err != nil {
		return fmt.Errorf("device %s: %w", device.ID(d.namespace, d.name), err)
	}
	if changes.Trivial && len(beside) == 0 {
		// Not worth the disk's while: the device says it again after a restart.
		if len(changes.Before) > 0 {
			e.tell(d, changes)
		}
		e.report(d, e.settle(ctx, d))
		return nil
	}
	if err := e.keep(ctx, d, changes, beside); err != nil {
		return err
	}
	e.m.conflicts.Add(float64(len(changes.Conflicts)))
	e.tell(d, changes)
	return nil
}

// keep puts what a step did on the disk, with the status that follows; where that fails the step is undone. Called with d.mu held.
func (e *Engine) keep(ctx context.Context, d *entry, changes twin.Changes, beside []Note) error {
	// From here on it is done or not done: a caller who goes away in between must not leave the disk with what this forgets.
	ctx = context.WithoutCancel(ctx)
	notes, err := d.notes(changes)
	if err != nil {
		d.twin.Revert(changes)
		return err
	}
	var outgoing []object.Outgoing
	now := time.Now()
	news, later := d.news(changes, now)
	news = news || !same(e.conditions(d, d.lens(now)), d.queued)
	var conditions []condition
	send := news && !now.Before(d.next)
	if send {
		w, in, err := e.status(d, now)
		if err != nil {
			d.twin.Revert(changes)
			return err
		}
		outgoing, conditions = append(outgoing, w), in
	}
	for _, c := range changes.Conflicts {
		outgoing = append(outgoing, e.conflict(d, c)...)
	}
	if err := e.deps.Store.Keep(ctx, append(notes, beside...), outgoing...); err != nil {
		d.twin.Revert(changes)
		return fmt.Errorf("keep the twin of device %s: %w", device.ID(d.namespace, d.name), err)
	}
	switch {
	case send:
		e.sent(d, conditions, now)
	case news:
		e.owe(d)
	case !later.IsZero():
		e.putOff(d, later)
	}
	return nil
}

// tell tells the listeners. Called with d.mu held.
func (e *Engine) tell(d *entry, changes twin.Changes) {
	c := Change{Namespace: d.namespace, Name: d.name, Last: changes.Before, Current: map[string]*twin.Property{}, Desired: changes.Desired, Pending: map[string]*twin.Property{}}
	for name := range changes.Before {
		c.Current[name] = d.twin.Property(name)
	}
	for _, name := range d.twin.Pending(nil) {
		c.Pending[name] = d.twin.Property(name)
	}
	for _, l := range e.deps.Listeners {
		l.Changed(c)
	}
}

// propertyNote is what is kept of a property. The uid tells it from one of a former device of the name.
type propertyNote struct {
	UID      string         `json:"uid"`
	Property *twin.Property `json:"property"`
}

// Buckets of notes.
const (
	bucketTwins  = "twin"   // by namespace/name/property
	bucketStates = "device" // by namespace/name
)

func (d *entry) notes(c twin.Changes) ([]Note, error) {
	var notes []Note
	for name := range c.Before {
		n := Note{Bucket: bucketTwins, Key: device.ID(d.namespace, d.name) + "/" + name}
		if p := d.twin.Property(name); p != nil {
			var body bytes.Buffer
			enc := json.NewEncoder(&body)
			enc.SetEscapeHTML(false) // <, > and & would take six bytes each
			if err := enc.Encode(propertyNote{d.uid, p}); err != nil {
				return nil, fmt.Errorf("encode property %q: %w", name, err)
			}
			n.Value = bytes.TrimSuffix(body.Bytes(), []byte("\n"))
		}
		notes = append(notes, n)
	}
	return notes, nil
}
