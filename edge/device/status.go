package device

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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

// fits reports whether the cloud can take the device's status. Called with d.mu held.
func (d *entry) fits() bool {
	all := d.twin.Status()
	n := 0
	for _, t := range all {
		n += perTwin + len(t.PropertyName)
		for _, v := range []*v1beta1.TwinProperty{t.ObservedDesired, t.Reported} {
			if v != nil {
				n += len(v.Value) + maxMetadata
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

// status is the write of a device's status. What the cloud could not take is left out and said: a Device can desire more than a
// status holds. Called with d.mu held.
func (e *Engine) status(d *entry, conditions []condition) (object.Outgoing, error) {
	r := report{UID: d.uid, Twins: d.twin.Status(), State: d.state.State, LastOnlineTime: d.state.lastOnline(), Conditions: conditions}
	if !d.fits() {
		r.Twins, r.Conditions = nil, slices.Clone(conditions)
		for i := range r.Conditions {
			if c := &r.Conditions[i]; c.Type == v1beta1.ConditionReported {
				c.Status, c.Reason, c.Message = metav1.ConditionFalse, "TooLarge", fmt.Sprintf("what is desired and reported takes more than %d bytes of JSON", v1beta1.MaxReport)
			}
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return object.Outgoing{}, fmt.Errorf("encode the status of device %s: %w", device.ID(d.namespace, d.name), err)
	}
	return object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Namespace: d.namespace, Name: d.name}, UID: d.uid, Op: object.OpPut, Body: body,
		Class: object.ClassState, Priority: priorityDevice}, nil
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

// conditions are those that the edge knows. Called with d.mu held.
func (e *Engine) conditions(d *entry) []condition {
	reported := condition{Type: v1beta1.ConditionReported, Status: metav1.ConditionTrue, Reason: "AsDesired"}
	if pending := d.twin.Pending(); len(pending) > 0 {
		reported.Status, reported.Reason = metav1.ConditionFalse, "Pending"
		reported.Message = fmt.Sprintf("%d properties have not reported what is desired: %s", len(pending), strings.Join(pending[:min(len(pending), shownPending)], ", "))
	}
	return []condition{e.mapperConnected(d), reported}
}

// pausing reports whether the next status has to wait. Called with d.mu held.
func (e *Engine) pausing(d *entry) bool { return d.due != nil || time.Now().Before(d.next) }

// sent notes that a status with these conditions was queued. Called with d.mu held.
func (e *Engine) sent(d *entry, conditions []condition) {
	d.queued, d.next = conditions, time.Now().Add(e.cfg.Pause)
	if d.due != nil {
		d.due.Stop()
		d.due = nil
	}
}

// putOff queues the status at the end of the pause. What is in it is on the disk already. Called with d.mu held.
func (e *Engine) putOff(d *entry) {
	if d.due != nil {
		return
	}
	var own *time.Timer
	own = time.AfterFunc(time.Until(d.next), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.due != own || d.gone || e.running().Err() != nil {
			return
		}
		d.due, d.queued = nil, nil
		err := e.settle(e.running(), d)
		e.report(d, err)
		if err != nil {
			d.next = time.Now().Add(max(e.cfg.Pause, retryFollow))
			e.putOff(d)
		}
	})
	d.due = own
}

// settle queues the status where a condition changed, or none was queued yet. Called with d.mu held.
func (e *Engine) settle(ctx context.Context, d *entry) error {
	next := e.conditions(d)
	if d.gone || d.due != nil || same(next, d.queued) {
		return nil
	}
	w, err := e.status(d, next)
	if err != nil {
		return err
	}
	if err := e.deps.Store.Keep(context.WithoutCancel(ctx), nil, w); err != nil {
		return fmt.Errorf("queue the status of device %s: %w", device.ID(d.namespace, d.name), err)
	}
	e.sent(d, next)
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
	before, conditions := d.state, e.conditions(d)
	d.state.UID, d.state.State = d.uid, state
	up := state == "online" || state == "ok"
	if up {
		d.state.Online = e.deps.Now().UnixMilli()
	}
	if state == before.State {
		// That it is still so is remembered, and is no news for the cloud.
		return onlineAt(d.state), nil
	}
	if err := e.keepState(context.WithoutCancel(ctx), d, conditions); err != nil {
		d.state = before
		return time.Time{}, fmt.Errorf("keep the state of device %s: %w", device.ID(namespace, name), err)
	}
	return onlineAt(d.state), nil
}

// keepState keeps a device's state, with its status or before it. Called with d.mu held.
func (e *Engine) keepState(ctx context.Context, d *entry, conditions []condition) error {
	value, err := json.Marshal(d.state)
	if err != nil {
		return err
	}
	note, now := Note{bucketStates, device.ID(d.namespace, d.name), value}, !e.pausing(d)
	var outgoing []object.Outgoing
	if now {
		w, err := e.status(d, conditions)
		if err != nil {
			return err
		}
		outgoing = append(outgoing, w)
	}
	if err := e.deps.Store.Keep(ctx, []Note{note}, outgoing...); err != nil {
		return err
	}
	if now {
		e.sent(d, conditions)
	} else {
		e.putOff(d)
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
	e.deps.Log.Info("a desired value that was set at the edge is replaced by the cloud's", "device", device.ID(d.namespace, d.name), "property", c.Property, "lost", c.Lost, "won", c.Won)
	now := e.deps.Now()
	stamp := metav1.NewTime(now)
	event := &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: d.namespace, Name: d.name + "." + strconv.FormatInt(now.UnixNano(), 16)},
		InvolvedObject: corev1.ObjectReference{APIVersion: v1beta1.GroupVersion.String(), Kind: "Device", Namespace: d.namespace, Name: d.name, UID: types.UID(d.uid)},
		Reason:         "DesireReplaced",
		Message:        fmt.Sprintf("property %q: %.128q, which was desired at the edge, is replaced by the Device's %.128q", c.Property, c.Lost, c.Won),
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
