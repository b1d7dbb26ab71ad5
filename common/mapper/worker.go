package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/device"
)

// maxWrites bounds how often one desired value is written to a device that does not take it: a value that it rounds would be
// written for ever.
const maxWrites = 5

// A worker looks after one device, in one goroutine.
type worker struct {
	h    *host
	id   string
	log  *slog.Logger
	ctx  context.Context
	stop context.CancelFunc
	news chan struct{} // holds one while next is new

	// The goroutine's own.
	now      Device
	driver   Driver
	opened   time.Time // when it is opened next, while driver is nil
	retry    *backoff.Backoff
	values   map[string]*value
	push     *pushes
	state    string
	stateDue time.Time // when the state is reported; zero for not
	unsent   bool      // a report failed: all that is due is sent again at sendAt
	sendAt   time.Time

	mu    sync.Mutex // guards what follows
	next  *Device    // what the edge said last, nil once it was taken
	anew  bool       // the edge may know nothing of what was reported
	known []*dmi.Twin
}

// value is what is known of one property.
type value struct {
	text     string
	has      bool // text was read
	failed   bool // the last call of the driver did
	due      time.Time
	pushed   time.Time
	reported time.Time
	sent     bool   // text is what was reported, with:
	observed wanted // what was desired then
	desired  wanted // that writes is of
	writes   int    // of desired, since the device was opened
	settled  bool   // the device had it once
	again    time.Time
}

func newWorker(h *host, id string) *worker {
	w := &worker{h: h, id: id, log: h.Log.With("device", id), news: make(chan struct{}, 1), values: map[string]*value{},
		retry: backoff.New(backoff.Config{Base: 500 * time.Millisecond, Max: h.RetryMax})}
	w.ctx, w.stop = context.WithCancel(h.ctx)
	return w
}

// set says what the device is now, and whether the edge may know nothing of what was reported. It does not block.
func (w *worker) set(d Device, anew bool) {
	w.mu.Lock()
	w.next = &d
	w.anew = w.anew || anew
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// last is what was read last.
func (w *worker) last() []*dmi.Twin {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known
}

func (w *worker) run() {
	defer w.stop()
	defer func() {
		w.close()
		w.push.end()
	}()
	timer := time.NewTimer(time.Hour) // the first news comes earlier
	defer timer.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.news:
			w.take()
		case <-timer.C:
		}
		timer.Reset(max(0, time.Until(w.step(time.Now()))))
	}
}

// take makes what the edge said last the device's present state.
func (w *worker) take() {
	w.mu.Lock()
	next, anew := w.next, w.anew
	w.next, w.anew = nil, false
	w.mu.Unlock()
	if next == nil {
		return
	}
	if anew {
		for _, v := range w.values {
			v.sent = false
		}
		if w.state != "" {
			w.stateDue = time.Now()
		}
	}
	if string(next.Config) != string(w.now.Config) {
		w.close()
		w.opened = time.Time{}
		w.retry.Reset()
	}
	old := w.values
	w.values = map[string]*value{}
	for _, p := range next.Properties {
		v := old[p.Name]
		if v == nil {
			v = &value{}
		}
		v.due = time.Time{} // whatever changed of it, it is looked at now
		if want := p.wanted(); v.desired != want {
			v.desired, v.writes, v.settled, v.again = want, 0, false, time.Time{}
		}
		w.values[p.Name] = v
	}
	w.push.end()
	w.now = *next
	w.push = newPushes(w, *next)
}

// step does what is due and returns when the next thing is.
func (w *worker) step(now time.Time) time.Time {
	if w.driver == nil {
		if now.Before(w.opened) {
			return w.earlier(w.opened)
		}
		if !w.open() {
			w.report(now)
			return w.earlier(w.opened)
		}
	}
	next := now.Add(time.Hour)
	wrong := false
	for i := range w.now.Properties {
		p := &w.now.Properties[i]
		v := w.values[p.Name]
		if p.Type == string(v1beta1.Stream) {
			continue // the mapper's own business, by none of these ways
		}
		if !now.Before(v.due) {
			if err := w.visit(*p, v); err != nil && !errors.Is(err, ErrProperty) {
				w.lose(err)
				w.report(now)
				return w.earlier(w.opened)
			}
			v.due = time.Now().Add(p.Collect)
		}
		if v.due.Before(next) {
			next = v.due
		}
		wrong = wrong || v.failed
	}
	if wrong {
		w.become("unhealthy")
	} else {
		w.become("online")
	}
	w.report(now)
	return w.earlier(next)
}

// earlier returns the next time that something is to be reported, or t if that is earlier.
func (w *worker) earlier(t time.Time) time.Time {
	if w.unsent && w.sendAt.Before(t) {
		t = w.sendAt
	}
	if !w.stateDue.IsZero() && w.stateDue.Before(t) && !w.unsent {
		t = w.stateDue
	}
	return t
}

// call runs f with the deadline of a driver's call; a panic of a driver costs its device only.
func (w *worker) call(f func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.h.Timeout)
	defer cancel()
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("the driver panicked: %v", fault)
		}
	}()
	return f(ctx)
}

func (w *worker) open() bool {
	err := w.call(func(ctx context.Context) (err error) {
		w.driver, err = w.h.Open(ctx, w.now)
		return err
	})
	if err != nil {
		w.driver = nil
		w.lose(err)
		return false
	}
	for _, v := range w.values {
		v.due, v.again, v.writes, v.settled = time.Time{}, time.Time{}, 0, false
	}
	return true
}

// lose closes a device that failed; it is opened again later.
func (w *worker) lose(err error) {
	if w.ctx.Err() != nil {
		return
	}
	w.close()
	if w.state != "offline" {
		w.log.Warn("device is lost; trying again", "error", err)
	}
	w.become("offline")
	w.opened = time.Now().Add(w.retry.Next())
}

func (w *worker) close() {
	if w.driver == nil {
		return
	}
	if err := w.call(func(context.Context) error { return w.driver.Close() }); err != nil {
		w.log.Debug("close the device", "error", err)
	}
	w.driver = nil
}

func (w *worker) become(state string) {
	if w.state != state {
		w.state, w.stateDue = state, time.Now()
		if state != "offline" {
			w.log.Info("device's state", "state", state)
		}
	}
}

// visit reads a property, and writes what is desired of it until it was read.
func (w *worker) visit(p Property, v *value) error {
	if err := w.read(p, v); err != nil {
		return w.noted(p, v, err)
	}
	w.retry.Reset()
	if p.Desired == "" || p.ReadOnly || v.settled {
		return w.noted(p, v, nil)
	}
	if v.settled = device.Same(v1beta1.PropertyType(p.Type), v.text, p.Desired); v.settled {
		return w.noted(p, v, nil)
	}
	if v.writes >= maxWrites {
		return w.noted(p, v, fmt.Errorf("%w: expected %.64q, found %.64q after it was written %d times", ErrProperty, p.Desired, v.text, v.writes))
	}
	if now := time.Now(); now.Before(v.again) {
		return nil
	}
	v.writes++
	// Growing, so that a device that takes its time is not written to again and again.
	v.again = time.Now().Add(min(p.Collect, time.Minute) << v.writes)
	err := w.call(func(ctx context.Context) error { return w.driver.Write(ctx, p, p.Desired) })
	if err == nil {
		err = w.read(p, v)
		v.settled = err == nil && device.Same(v1beta1.PropertyType(p.Type), v.text, p.Desired)
	}
	return w.noted(p, v, err)
}

func (w *worker) read(p Property, v *value) error {
	var text string
	err := w.call(func(ctx context.Context) (err error) {
		text, err = w.driver.Read(ctx, p)
		return err
	})
	if err != nil {
		return err
	}
	if !v.has || v.text != text {
		v.text, v.has, v.sent = text, true, false
	}
	if now := time.Now(); now.Sub(v.pushed) >= p.Report {
		v.pushed = now
		w.push.add(Sample{Namespace: w.now.Namespace, Device: w.now.Name, Property: p.Name, Value: text, Time: now})
	}
	return nil
}

// noted logs that a property begins to fail.
func (w *worker) noted(p Property, v *value, err error) error {
	if err != nil && !v.failed && errors.Is(err, ErrProperty) {
		w.log.Warn("a property does not work", "property", p.Name, "error", err)
	}
	v.failed = err != nil
	return err
}

// report sends what changed or is due, together. What cannot be sent is sent later, if it is still so.
func (w *worker) report(now time.Time) {
	if w.unsent && now.Before(w.sendAt) {
		return
	}
	twins, values := w.due(now)
	ctx, cancel := context.WithTimeout(w.ctx, w.h.Timeout)
	defer cancel()
	var err error
	if len(twins) > 0 {
		_, err = w.h.edge.ReportDeviceStatus(ctx, &dmi.ReportDeviceStatusRequest{DeviceName: w.now.Name, DeviceNamespace: w.now.Namespace, ReportedDevice: &dmi.DeviceStatus{Twins: twins}})
		for name, v := range values {
			if err == nil {
				v.sent, v.reported, v.observed = true, now, w.wantedOf(name)
			}
		}
	}
	if err == nil && !w.stateDue.IsZero() && !time.Now().Before(w.stateDue) {
		if _, err = w.h.edge.ReportDeviceStates(ctx, &dmi.ReportDeviceStatesRequest{DeviceName: w.now.Name, DeviceNamespace: w.now.Namespace, State: w.state}); err == nil {
			w.stateDue = time.Time{}
			if w.now.stateCycle > 0 {
				w.stateDue = now.Add(max(w.now.stateCycle, minCollect))
			}
		}
	}
	if err != nil {
		if !w.unsent && w.ctx.Err() == nil {
			w.log.Warn("cannot report to the edge; trying again", "error", err)
		}
		w.sendAt = time.Now().Add(time.Second)
	}
	w.unsent = err != nil
}

func (w *worker) wantedOf(name string) wanted {
	for i := range w.now.Properties {
		if w.now.Properties[i].Name == name {
			return w.now.Properties[i].wanted()
		}
	}
	return wanted{}
}

// due returns the twins to report, and their values by name. It notes all twins for GetDevice.
func (w *worker) due(now time.Time) (twins []*dmi.Twin, values map[string]*value) {
	values = map[string]*value{}
	var all []*dmi.Twin
	for i := range w.now.Properties {
		p := &w.now.Properties[i]
		v := w.values[p.Name]
		if !v.has {
			continue
		}
		stamp := strconv.FormatInt(now.UnixMilli(), 10)
		twin := &dmi.Twin{PropertyName: p.Name, Reported: &dmi.TwinProperty{Value: v.text, Metadata: map[string]string{"timestamp": stamp, "type": p.Type}}}
		if p.Desired != "" {
			twin.ObservedDesired = &dmi.TwinProperty{Value: p.Desired, Metadata: p.desired.GetMetadata()}
		}
		all = append(all, twin)
		if !v.sent || v.observed != p.wanted() || p.Report > 0 && now.Sub(v.reported) >= p.Report {
			twins = append(twins, twin)
			values[p.Name] = v
		}
	}
	w.mu.Lock()
	w.known = all
	w.mu.Unlock()
	return twins, values
}
