package device

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	recordutil "k8s.io/client-go/tools/record/util"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// report is the body of a device's status as it goes to the cloud: all that this edge knows, each time.
type report struct {
	UID            string         `json:"uid"`
	Twins          []v1beta1.Twin `json:"twins,omitempty"`
	State          string         `json:"state,omitempty"`
	LastOnlineTime string         `json:"lastOnlineTime,omitempty"`
	Conditions     []condition    `json:"conditions"`
}

// condition is one that the edge knows; the cloud gives it its times.
type condition struct {
	Type    string                 `json:"type"`
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason"`
	Message string                 `json:"message,omitempty"`
}

func same(a, b []condition) bool { return b != nil && slices.Equal(a, b) }

// stateNote is what is kept of a device beside its properties.
type stateNote struct {
	UID   string `json:"uid"`
	State string `json:"state,omitempty"`
	// Online is when the state was online or ok last, in milliseconds since 1970; 0 for never.
	Online int64 `json:"online,omitempty"`
}

func (s stateNote) lastOnline() string {
	if s.Online == 0 {
		return ""
	}
	return time.UnixMilli(s.Online).UTC().Format(time.RFC3339)
}

// priorityDevice is that of a device's status in the outbox: after the pods', before Events.
const priorityDevice = object.PriorityPod / 2

// perTwin is about what a twin takes in JSON beside its texts, in bytes, and escaped how much longer a text can become there.
const (
	perTwin = 200
	escaped = 6
)

// fits reports whether the cloud can take twins in a device's status.
func fits(all []v1beta1.Twin) bool {
	if len(device.JudgeReported(all)) > 0 {
		return false
	}
	n := 0
	for _, t := range all {
		n += perTwin + len(t.PropertyName)
		for _, v := range []*v1beta1.TwinProperty{t.ObservedDesired, t.Reported} {
			if v != nil {
				n += len(v.Value) + v1beta1.MaxMetadataBytes
			}
		}
	}
	if n*escaped <= v1beta1.MaxReport {
		return true
	}
	body, err := json.Marshal(all)
	return err == nil && len(body) <= v1beta1.MaxReport-room
}

// room is left in a status for what is beside its twins.
const room = 16 << 10

// status is the write of a device's status at a time, with the conditions in it. What the cloud could not take is left out and said: a
// Device can desire more than a status holds. Called with d.mu held.
func (e *Engine) status(d *entry, now time.Time) (w object.Outgoing, conditions []condition, err error) {
	state, _ := d.stateShown(now)
	twins, fit := d.squeeze(now)
	conditions = e.conditions(d, d.lens(now))
	r := report{UID: d.uid, Twins: twins, State: state.State, LastOnlineTime: state.lastOnline(), Conditions: conditions}
	if !fit {
		r.Twins, r.Conditions = nil, slices.Clone(conditions)
		for i := range r.Conditions {
			if c := &r.Conditions[i]; c.Type == v1beta1.ConditionReported {
				c.Status, c.Reason, c.Message = metav1.ConditionFalse, "TooLarge", fmt.Sprintf("what is desired and reported takes more than %d bytes of JSON", v1beta1.MaxReport)
			}
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return w, nil, fmt.Errorf("encode the status of device %s: %w", device.ID(d.namespace, d.name), err)
	}
	return object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Namespace: d.namespace, Name: d.name}, UID: d.uid, Op: object.OpPut, Body: body,
		Class: object.ClassState, Priority: priorityDevice, Remade: true}, conditions, nil
}

// shownPending is how many properties a condition names.
const shownPending = 10

// mapperConnected is the condition of that name. Called with d.mu held.
func (e *Engine) mapperConnected(d *entry) condition {
	mapper := condition{Type: v1beta1.ConditionMapperConnected, Status: metav1.ConditionTrue, Reason: "Connected"}
	protocol := device.Protocol(d.device, d.model)
	e.mu.RLock()
	state, known := e.mappers[protocol]
	e.mu.RUnlock()
	switch {
	case protocol == "":
		mapper.Status, mapper.Reason, mapper.Message = metav1.ConditionFalse, "NoProtocol", "neither the device nor its model names a protocol"
	case !known:
		mapper.Status, mapper.Reason, mapper.Message = metav1.ConditionFalse, "NoMapper", fmt.Sprintf("no mapper of protocol %q has registered on this node", protocol)
	case !state.connected:
		mapper.Status, mapper.Reason, mapper.Message = metav1.ConditionFalse, "MapperAway", fmt.Sprintf("the mapper of protocol %q does not answer", protocol)
	case d.told != "":
		mapper.Status, mapper.Reason, mapper.Message = metav1.ConditionFalse, "MapperRefuses", d.told
	}
	return mapper
}

// conditions are those that the edge knows, of properties as they are seen. Called with d.mu held.
func (e *Engine) conditions(d *entry, see twin.Lens) []condition {
	return []condition{e.mapperConnected(d), d.reportedCondition(see)}
}

// sent notes that a status as of a time was queued, with these conditions. Called with d.mu held.
func (e *Engine) sent(d *entry, conditions []condition, now time.Time) {
	d.queued, d.next, d.owed = conditions, now.Add(e.cfg.Pause), false
	d.calm()
	if later := d.showed(now); !later.IsZero() {
		e.putOff(d, later)
	}
}

// calm stops what is put off. Called with d.mu held.
func (d *entry) calm() {
	if d.due != nil {
		d.due.Stop()
		d.due = nil
	}
}

// owe queues the status at the end of the pause. Called with d.mu held.
func (e *Engine) owe(d *entry) {
	d.owed = true
	e.putOff(d, d.next)
}

// putOff looks at a time, or at the end of the pause if that is later, whether there is more to show, and queues the status then. What is in
// it is on the disk already. Called with d.mu held.
func (e *Engine) putOff(d *entry, at time.Time) {
	if at.Before(d.next) {
		at = d.next
	}
	if d.due != nil && !at.Before(d.dueAt) {
		return
	}
	d.calm()
	var own *time.Timer
	own = time.AfterFunc(time.Until(at), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.due != own || d.gone || e.running().Err() != nil {
			return
		}
		d.due = nil
		now := time.Now()
		if d.owed || d.behind(now) {
			d.queued = nil
		} else if later := d.showed(now); !later.IsZero() {
			e.putOff(d, later)
		}
		err := e.settle(e.running(), d)
		e.report(d, err)
		if err != nil {
			d.next = time.Now().Add(max(e.cfg.Pause, retryFollow))
			e.owe(d)
		}
	})
	d.due, d.dueAt = own, at
}

// settle queues the status where a condition changed, or none was queued yet. Called with d.mu held.
func (e *Engine) settle(ctx context.Context, d *entry) error {
	now := time.Now()
	if d.gone || same(e.conditions(d, d.lens(now)), d.queued) {
		return nil
	}
	if now.Before(d.next) {
		e.owe(d)
		return nil
	}
	w, next, err := e.status(d, now)
	if err != nil {
		return err
	}
	if err := e.deps.Store.Keep(context.WithoutCancel(ctx), nil, w); err != nil {
		return fmt.Errorf("queue the status of device %s: %w", device.ID(d.namespace, d.name), err)
	}
	e.sent(d, next, now)
	return nil
}

// States that a mapper or a client may report.
var states = []string{"online", "offline", "ok", "unknown", "unhealthy"}

// SetState takes what a mapper or a client says of a device as a whole, and returns when it was online last; zero for
// never.
func (e *Engine) SetState(ctx context.Context, namespace, name, state string) (lastOnline time.Time, err error) {
	if !slices.Contains(states, state) {
		return time.Time{}, fmt.Errorf("%w: state %.80q, expected one of %s", ErrInvalid, state, strings.Join(states, ", "))
	}
	d, err := e.find(ctx, namespace, name)
	if err != nil {
		return time.Time{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return time.Time{}, fmt.Errorf("%w: %.80q in namespace %.80q", ErrUnknown, name, namespace)
	}
	before := d.state
	d.state.UID, d.state.State = d.uid, state
	up := func(state string) bool { return state == "online" || state == "ok" }
	if up(state) || up(before.State) { // until now it was
		d.state.Online = e.deps.Now().UnixMilli()
	}
	if state == before.State {
		// That it is still so is remembered, and is no news for the cloud.
		return onlineAt(d.state), nil
	}
	if err := e.keepState(context.WithoutCancel(ctx), d); err != nil {
		d.state = before
		return time.Time{}, fmt.Errorf("keep the state of device %s: %w", device.ID(namespace, name), err)
	}
	return onlineAt(d.state), nil
}

// keepState keeps a device's state, with its status or before it. Called with d.mu held.
func (e *Engine) keepState(ctx context.Context, d *entry) error {
	value, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	note, now := Note{bucketStates, device.ID(d.namespace, d.name), value}, time.Now()
	_, later := d.stateShown(now)
	news := d.stateBehind() && later.IsZero()
	var outgoing []object.Outgoing
	var conditions []condition
	send := news && !now.Before(d.next)
	if send {
		w, in, err := e.status(d, now)
		if err != nil {
			return err
		}
		outgoing, conditions = append(outgoing, w), in
	}
	if err := e.deps.Store.Keep(ctx, []Note{note}, outgoing...); err != nil {
		return err
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

func onlineAt(s stateNote) time.Time {
	if s.Online == 0 {
		return time.Time{}
	}
	return time.UnixMilli(s.Online)
}

// Connected takes whether the mapper of a protocol answers.
func (e *Engine) Connected(ctx context.Context, protocol string, connected bool) {
	e.mu.Lock()
	before, known := e.mappers[protocol]
	e.mappers[protocol] = mapperState{connected}
	e.mu.Unlock()
	if known && before.connected == connected {
		return
	}
	for _, d := range e.all() {
		d.mu.Lock()
		if device.Protocol(d.device, d.model) == protocol {
			e.report(d, e.settle(ctx, d))
		}
		d.mu.Unlock()
	}
}

// Took takes what the mapper of a device was told that is desired, now that it took the device: its properties, with an empty value where
// nothing is.
func (e *Engine) Took(ctx context.Context, namespace, name string, desired map[string]string) {
	d, err := e.find(ctx, namespace, name)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := make(map[string]twin.Update, len(desired))
	for property, value := range desired {
		seen[property] = twin.Update{Observed: &value}
	}
	changes, err := d.twin.Apply(seen, d.twin.Last())
	if err == nil && !d.gone && !changes.Trivial {
		// Nobody at the edge hears of it: of the values nothing changed.
		err = e.keep(ctx, d, changes, nil)
	}
	e.report(d, err)
}

// Told takes whether the mapper of a device took what it was told of it.
func (e *Engine) Told(ctx context.Context, namespace, name string, refusal error) {
	d, err := e.find(ctx, namespace, name)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = ""
	if refusal != nil {
		d.told = refusal.Error()
		d.told = d.told[:min(len(d.told), 512)]
	}
	e.report(d, e.settle(ctx, d))
}

func (e *Engine) report(d *entry, err error) {
	if err != nil {
		e.m.failures.Inc()
		e.deps.Log.Warn("cannot keep what is known of a device", "device", device.ID(d.namespace, d.name), "error", err)
	}
}

// eventLife is how long an Event waits for the cloud.
const eventLife = time.Hour

// conflict is the Event that says what was lost. Called with d.mu held.
func (e *Engine) conflict(d *entry, c twin.Conflict) []object.Outgoing {
	e.deps.Log.Info("a desired value that was set at the edge is replaced by the cloud's", "device", device.ID(d.namespace, d.name), "property", c.Property, "lost", c.Lost, "won", c.Won, "why", c.Why)
	now := e.deps.Now()
	stamp := metav1.NewTime(now)
	message := fmt.Sprintf("property %q: %.128q, which was desired at the edge, is replaced by the Device's %.128q", c.Property, c.Lost, c.Won)
	if c.Why != "" {
		message = fmt.Sprintf("property %q: %.128q, which was desired at the edge, gives way to the Device's %.128q: %s", c.Property, c.Lost, c.Won, c.Why)
	}
	event := &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: d.namespace, Name: recordutil.GenerateEventName(d.name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: v1beta1.GroupVersion.String(), Kind: "Device", Namespace: d.namespace, Name: d.name, UID: types.UID(d.uid)},
		Reason:         "DesireReplaced",
		Message:        message,
		Source:         corev1.EventSource{Component: "edgecore", Host: e.cfg.Node}, FirstTimestamp: stamp, LastTimestamp: stamp, Count: 1, Type: corev1.EventTypeWarning,
	}
	kind, _ := object.Lookup(object.Events)
	body, err := object.Encode(kind, event)
	if err != nil {
		e.report(d, err)
		return nil
	}
	return []object.Outgoing{{Key: object.KeyOf(object.Events, event), Op: object.OpCreate, Body: body, Class: object.ClassEvent, Priority: object.PriorityEvent,
		Policy: object.DropOldest, Expires: now.Add(eventLife)}}
}
