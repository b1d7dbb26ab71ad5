package methods

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	common "github.com/tether-edge/tether/common/device"
)

// A call is one call of a method.
type call struct {
	// name is random: it is in the desired values, and so tells them from those of other calls.
	name      string
	key       keyID // zero for none
	seq       uint64
	namespace string
	device    string
	uid       string
	method    string
	digest    digest // of what was asked
	asked     time.Time
	timeout   time.Duration
	// over is closed once nobody works for the call any more: it was refused, has its outcome, or its time is up. It is nil for a
	// call of a former process.
	over chan struct{}
	// turn is closed once the call has its device.
	turn chan struct{}
	// done is closed once there is an outcome.
	done chan struct{}

	// The desk's mutex guards what follows.

	settings map[string]setting
	// stored: what it desires is on the disk. Before that nothing that happens concerns the call.
	stored bool
	// told is by which call, by property, a value that is the same was desired when the mapper was told of it last; "" for no call.
	// by is by which call it is desired now: another than this one where the same was desired since. met: that is known, for a call
	// of a former process.
	told, by map[string]string
	met      bool
	// offered: a report with what it desires is being stored.
	offered bool
	// lost is what took the place of a desire before it was read back, by property.
	lost map[string]string
	// refused is why nothing of it was done, nil otherwise.
	refused *refusal
	// outcome is how it ended, nil before. kept: that is on the disk; settling is who brings it there, nil for nobody.
	outcome  *outcome
	kept     bool
	settling *settling
	// waiting counts the requests that wait for it. What is waited for is not forgotten.
	waiting int
	expires time.Time
	bytes   int // that its note takes
}

// An outcome is what a call ended with: code 200, or 409 with the reason.
type outcome struct {
	Code   int    `json:"code"`
	Reason string `json:"reason,omitempty"`
}

func (c *call) id() id { return common.ID(c.namespace, c.device) }

// readBack says that all its properties were.
func (c *call) readBack() bool {
	for _, s := range c.settings {
		if s.Reported == nil {
			return false
		}
	}
	return true
}

// A refusal is why a call was not made. It is remembered for no key.
type refusal struct {
	code    int
	reasons []string
}

func (r *refusal) Error() string { return fmt.Sprint(r.code, " ", r.reasons) }

func refuse(code int, format string, args ...any) *refusal {
	return &refusal{code, []string{fmt.Sprintf(format, args...)}}
}

// An ask is a call as a client asks for it.
type ask struct {
	user, namespace, name, method, key string
	given                              map[string]literal
	timeout                            time.Duration
}

// A visit is a request's part in a call.
type visit struct {
	*call
	// life ends when the process stops.
	life context.Context
	// joined: another request began it. replayed: it had its outcome before.
	joined, replayed bool
	// leave is called when the request does not wait for the call any more.
	leave func()
}

// take returns the call that an ask is: a new one, or the one that has the key.
func (d *desk) take(a ask) (visit, *refusal) {
	// The engine is asked before the desk is locked: it calls Changed while it holds a device.
	device, ok := d.deps.Devices.Device(a.namespace, a.name)
	if !ok {
		return visit{}, refuse(http.StatusNotFound, "this node has no device %s in namespace %s", quoted(a.name), quoted(a.namespace))
	}
	m := methodOf(device.Device, a.method)
	if m == nil {
		return visit{}, refuse(http.StatusNotFound, "device %s has no method %s", common.ID(a.namespace, a.name), quoted(a.method))
	}
	why, away := broken(device), d.away(device)
	var settings map[string]setting
	var found faults
	if why == "" { // else nothing can be said of values: the model may be gone
		settings, found = judge(device, m, a.given)
	}
	key, sum, uid := keyOf(a), digestOf(a), string(device.Device.UID)
	protocol := common.Protocol(device.Device, device.Model)
	d.mu.Lock()
	defer d.mu.Unlock()
	life := d.life
	if life == nil {
		return visit{}, errStopping
	}
	if c := d.find(key, uid); c != nil {
		if c.digest != sum {
			return visit{}, refuse(http.StatusUnprocessableEntity, "this Idempotency-Key was used for another call of the device: expected the method and the body of then, or another key")
		}
		if c.over == nil && c.outcome == nil {
			d.compare(c, device)
		}
		if c.outcome != nil {
			c.waiting++
			return visit{c, life, true, true, func() { d.leave(c) }}, nil
		}
		if c.idle() && away != nil {
			return visit{}, away
		}
		free, full := d.enter(c.id(), protocol)
		if full != nil {
			return visit{}, full
		}
		c.waiting++
		return visit{c, life, true, false, func() { d.leave(c, free) }}, nil
	}
	switch {
	case why != "":
		return visit{}, refuse(http.StatusConflict, "the device cannot work: %s", why)
	case len(found) > 0:
		return visit{}, &refusal{http.StatusBadRequest, found.said()}
	case away != nil:
		return visit{}, away
	}
	c := &call{name: newName(), key: key, namespace: a.namespace, device: a.name, uid: uid, method: a.method, digest: sum, asked: time.Now(), timeout: a.timeout,
		settings: settings, told: map[string]string{}, by: map[string]string{}, lost: map[string]string{}, turn: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{})}
	free, full := d.enter(c.id(), protocol) // for run: the call goes on when its request is gone
	if full != nil {
		return visit{}, full
	}
	c.waiting += 2 // for run and the request
	d.add(c)
	d.lanes[c.id()].stand(c)
	d.running.Go(func() { d.run(life, c, free) })
	return visit{c, life, false, false, func() { d.leave(c) }}, nil
}

// away is the refusal for a device whose mapper is not there, nil otherwise.
func (d *desk) away(device Device) *refusal {
	if _, connected := d.deps.Devices.Status(device.Device.Namespace, device.Device.Name); connected {
		return nil
	}
	return refuse(http.StatusServiceUnavailable, "the mapper of protocol %s is away: ask again when it is there", quoted(common.Protocol(device.Device, device.Model)))
}

// newName is random, of 64 bits.
func newName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// A lane is a device's. The first call in its row has the device.
type lane struct {
	row  []*call
	used int // places
}

func (l *lane) stand(c *call) {
	if l.row = append(l.row, c); l.row[0] == c {
		close(c.turn)
	}
}

// quit lets the next call have its turn, if c had it.
func (l *lane) quit(c *call) {
	first := l.row[0] == c
	l.row = slices.DeleteFunc(l.row, func(o *call) bool { return o == c })
	if first && len(l.row) > 0 {
		close(l.row[0].turn)
	}
}

// enter takes a place, which a call holds while it is worked for, and a request that joined it while it waits. free gives it back.
// Both are called with mu held.
func (d *desk) enter(device id, protocol string) (free func(), full *refusal) {
	l := d.lanes[device]
	switch {
	case l != nil && l.used >= d.cfg.MaxCalls:
		return nil, refuse(http.StatusTooManyRequests, "expected at most %d calls at a time of one device: ask again later", d.cfg.MaxCalls)
	case d.ofMapper[protocol] >= d.cfg.MaxCallsOfMapper:
		return nil, refuse(http.StatusServiceUnavailable, "expected at most %d calls at a time of all devices of protocol %s: ask again later", d.cfg.MaxCallsOfMapper, quoted(protocol))
	case l == nil:
		l = &lane{}
		d.lanes[device] = l
	}
	l.used++
	d.ofMapper[protocol]++
	return func() {
		if l.used--; l.used == 0 {
			delete(d.lanes, device)
		}
		if d.ofMapper[protocol]--; d.ofMapper[protocol] == 0 {
			delete(d.ofMapper, protocol)
		}
	}, nil
}

// leave ends a request's waiting for a call, and gives its place back, if it has one.
func (d *desk) leave(c *call, free ...func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.waiting--
	for _, f := range free {
		f()
	}
}

// run makes a call, whether or not somebody waits for it: it waits for its turn, desires what the call desires, and has the device
// until that was read back or the time is up.
func (d *desk) run(life context.Context, c *call, free func()) {
	defer d.close(c, free)
	defer func() {
		if fault := recover(); fault != nil {
			d.m.panics.Inc()
			d.deps.Log.Error("a method call met a fault of edgecore's own", "device", c.id(), "method", c.method, "fault", fault, "stack", string(debug.Stack()))
			d.refuse(c, refuse(http.StatusInternalServerError, "a fault of the edge; its log says more"))
		}
	}()
	ctx, cancel := context.WithDeadline(life, c.asked.Add(c.timeout))
	defer cancel()
	select {
	case <-c.turn:
	case <-ctx.Done():
	}
	if err := d.begin(ctx, life, c); err != nil {
		d.refuse(c, err)
		return
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
}

// begin desires what c desires. ctx has its deadline.
func (d *desk) begin(ctx, life context.Context, c *call) *refusal {
	if life.Err() != nil {
		return errStopping
	}
	if ctx.Err() != nil {
		return refuse(http.StatusGatewayTimeout, "its turn did not come within %v: the calls before it took that long. Nothing was written", c.timeout)
	}
	device, ok := d.deps.Devices.Device(c.namespace, c.device)
	if !ok || string(device.Device.UID) != c.uid {
		return refuse(http.StatusNotFound, "the device is gone")
	}
	if away := d.away(device); away != nil { // it may have gone while the call waited
		return away
	}
	values := make(map[string]string, len(c.settings))
	for name, s := range c.settings { // what is in it is changed once it is stored
		values[name] = s.Value
	}
	notes, stored, err := d.remember(c)
	if err == nil {
		err = d.deps.Devices.Desire(ctx, c.namespace, c.device, c.uid, c.name, values, notes...)
	}
	switch {
	case err == nil:
		stored()
		return nil
	case errors.Is(err, ErrUnknown):
		return refuse(http.StatusNotFound, "the device is gone")
	case errors.Is(err, ErrInvalid):
		return refuse(http.StatusBadRequest, "%v", err)
	}
	d.m.failures.Inc()
	d.deps.Log.Error("a method call cannot be stored", "device", c.id(), "method", c.method, "error", err)
	return refuse(http.StatusServiceUnavailable, "the edge cannot store the call; its log says why. Nothing was written")
}

// errStopping says that the process ends.
var errStopping = refuse(http.StatusServiceUnavailable, "the edge is stopping: ask again, with the same Idempotency-Key")

func (d *desk) refuse(c *call, why *refusal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.outcome == nil && !c.stored {
		c.refused = why
	}
}

// close ends the work for a call, and the next one has its device. What was not stored, or has no key by which anybody could ask for it, is forgotten.
func (d *desk) close(c *call, free func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.waiting--
	d.lanes[c.id()].quit(c)
	free()
	if !c.stored || c.key == (keyID{}) {
		d.drop(c)
	}
	close(c.over)
}

// idle says that nobody works for the call any more.
func (c *call) idle() bool {
	select {
	case <-c.over:
		return true
	default:
		return c.over == nil
	}
}

// backstop is how long a disk may take beyond a call's time before the call is answered without it.
const backstop = 10 * time.Second

// wait waits for a call for at most timeout, and returns its answer. ctx ends when the client is gone.
func (d *desk) wait(ctx context.Context, c visit, timeout time.Duration) answer {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	over, late := c.over, false
	for {
		select {
		case <-c.done:
			return d.answer(c.call, nil)
		case <-over:
			over = nil
			d.mu.Lock()
			refused := c.refused
			d.mu.Unlock()
			if refused != nil || !c.joined {
				return d.answer(c.call, refused)
			}
		case <-c.life.Done():
			return d.answer(c.call, errStopping)
		case <-ctx.Done():
			return d.answer(c.call, nil)
		case <-timer.C:
			if c.joined || late {
				return d.answer(c.call, nil)
			}
			late = true // its time is over too: it says in a moment whether it was begun
			timer.Reset(backstop)
		}
	}
}

// answer is what a client hears of a call as it stands now, or of why it was refused.
func (d *desk) answer(c *call, refused *refusal) answer {
	d.mu.Lock()
	a := answer{Call: c.name, Properties: map[string]became{}}
	o, stored := c.outcome, c.stored
	for name, s := range c.settings {
		b := became{Desired: s.Value, Result: isPending, Reported: s.Reported}
		if s.Reported != nil {
			b.Result = wasDone
		} else if why := c.lost[name]; why != "" {
			b.Result, b.Reason = wasReplaced, why
		}
		a.Properties[name] = b
	}
	d.mu.Unlock()
	switch {
	case o != nil && d.settle(c) != nil:
		a.Code = http.StatusServiceUnavailable
		a.Reasons = []string{"the edge cannot store what became of the call; its log says why. Ask again, with the same Idempotency-Key"}
	case o != nil:
		a.Code = o.Code
		if o.Reason != "" {
			a.Reasons = []string{o.Reason}
		}
	case refused != nil:
		a.Code, a.Reasons = refused.code, refused.reasons
		if !stored {
			a.Call, a.Properties = "", nil
		}
	case stored:
		a.Code = http.StatusGatewayTimeout
		a.Reasons = []string{"the device has not reported what was desired of it in time; it may still do so. Asking again with the same Idempotency-Key waits on and desires nothing anew"}
		d.lookAt(c, a.Properties)
		a.Reasons = append(a.Reasons, refusalsOf(a.Properties)...)
	default:
		a.Code, a.Reasons, a.Properties = http.StatusGatewayTimeout, []string{"its turn has not come in time, and may still come"}, nil
	}
	return a
}

// lookAt fills in what the device has of properties that were not read back, and why it does not have what is desired.
func (d *desk) lookAt(c *call, properties map[string]became) {
	device, ok := d.deps.Devices.Device(c.namespace, c.device)
	if !ok {
		return
	}
	for name, b := range properties {
		p := device.Properties[name]
		if b.Result == wasDone || p == nil {
			continue
		}
		if p.Reported != nil {
			b.Reported = &p.Reported.Value
		}
		if why := device.Refused[name]; why != "" && b.Result == isPending {
			b.Result, b.Reason = wasRefused, why
		}
		properties[name] = b
	}
}

// refusalsOf are the reasons of what the mapper refuses.
func refusalsOf(properties map[string]became) []string {
	var said faults
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if b := properties[name]; b.Result == wasRefused {
			said.add("property %s: the mapper refuses %s: %s", quoted(name), quoted(b.Desired), b.Reason)
		}
	}
	return said.said()
}
