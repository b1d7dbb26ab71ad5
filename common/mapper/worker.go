package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/device"
)

// maxWrites bounds how often one desired value is written to a device that is lost each time before it has it. Then it is written once
// in each restWrites: what lost the device may have been the cable.
const (
	maxWrites  = 5
	restWrites = time.Hour
)

// maxRefusal bounds what the edge is told of why a device does not have what is desired, in bytes.
const maxRefusal = 512

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
	known    bool // text was read
	failed   bool // the last call of the driver did
	due      time.Time
	pushed   time.Time
	reported time.Time
	sent     bool      // text is what was reported, with:
	observed wanted    // what was desired then
	told     said      // and what was said then against it
	desired  wanted    // that all below is of
	writes   int       // since the device had it; at most maxWrites, then:
	rest     time.Time // when it is written again; zero where that is not why it is refused
	settled  bool      // the device had it once, since it was opened
	written  bool      // it was written since then, and is to be read back by:
	deadline time.Time
	refused  string // why it is not written, or not any more; empty for none

	unread string    // why it was not read, or why no report can hold what was; empty for none
	barred string    // why the edge does not take text, which it is offered again
	offer  time.Time // then; empty and zero for none
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
		w.push.end(w.log)
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
			v.desired, v.writes, v.rest, v.settled, v.written, v.refused = want, 0, time.Time{}, false, false, ""
		}
		w.values[p.Name] = v
	}
	before := w.now.Properties
	w.now = *next
	w.repush(before)
}

// step does what is due and returns when the next thing is.
func (w *worker) step(now time.Time) time.Time {
	if w.driver == nil {
		if now.Before(w.opened) {
			w.report(now)
			return w.earlier(w.opened)
		}
		if !w.open() {
			w.report(now)
			return w.earlier(w.opened)
		}
	}
	next := now.Add(time.Hour)
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
	for _, v := range w.values {
		if v.barred != "" && v.offer.Before(t) && !w.unsent {
			t = v.offer
		}
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
		v.due, v.settled, v.written = time.Time{}, false, false
		if v.writes < maxWrites {
			v.refused = "" // the device may be another one now
		}
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

// visit reads a property, and writes what is desired of it, once. It is written again only where the device was lost before it had
// it.
func (w *worker) visit(p Property, v *value) error {
	if err := w.read(p, v); err != nil {
		return w.noted(p, v, err)
	}
	w.retry.Reset()
	if p.Desired == "" || p.ReadOnly || v.settled || v.has(p) {
		return w.noted(p, v, nil)
	}
	if !v.rest.IsZero() && !time.Now().Before(v.rest) {
		v.writes, v.rest, v.refused = maxWrites-1, time.Time{}, ""
	}
	switch {
	case v.refused != "":
	case v.written && time.Now().Before(v.deadline):
		return w.noted(p, v, nil)
	case v.written:
		v.refuse(fmt.Errorf("expected %.64q, found %.64q %v after it was written", p.Desired, v.text, w.patience(p)))
	case v.writes >= maxWrites:
		v.refuse(fmt.Errorf("the device was lost %d times while it was written", v.writes))
		v.rest = time.Now().Add(restWrites)
	default:
		return w.noted(p, v, w.write(p, v))
	}
	return w.noted(p, v, fmt.Errorf("%w: %s", ErrProperty, v.refused))
}

// write writes what is desired of a property, and reads it back.
func (w *worker) write(p Property, v *value) error {
	v.writes++
	err := w.call(func(ctx context.Context) error { return w.driver.Write(ctx, p, p.Desired) })
	if errors.Is(err, ErrProperty) {
		v.refuse(err)
	}
	if err != nil {
		return err
	}
	v.written, v.deadline = true, time.Now().Add(w.patience(p))
	if err := w.read(p, v); err != nil {
		return err
	}
	v.has(p)
	return nil
}

// patience is how long a device may take to have what was written.
func (w *worker) patience(p Property) time.Duration {
	return min(max(10*p.Collect, w.h.Timeout), time.Minute)
}

// has notes whether the device has what is desired.
func (v *value) has(p Property) bool {
	if v.settled = device.Same(v1beta1.PropertyType(p.Type), v.text, p.Desired); v.settled {
		v.writes, v.rest, v.written, v.refused = 0, time.Time{}, false, ""
	}
	return v.settled
}

func (v *value) refuse(why error) {
	v.refused = spoken(why)
}

// spoken is an error as the edge is told it.
func spoken(why error) string {
	text := strings.ToValidUTF8(strings.TrimPrefix(why.Error(), ErrProperty.Error()+": "), "\uFFFD")
	return strings.ToValidUTF8(text[:min(len(text), maxRefusal)], "")
}

func (w *worker) read(p Property, v *value) error {
	var text string
	err := w.call(func(ctx context.Context) (err error) {
		text, err = w.driver.Read(ctx, p)
		return err
	})
	if errors.Is(err, ErrProperty) {
		v.unread = spoken(err)
	}
	if err != nil {
		return err
	}
	v.unread = ""
	if err := reportable(text); err != nil {
		v.unread = spoken(err)
	}
	if !v.known || v.text != text {
		v.text, v.known, v.sent, v.barred = text, true, false, ""
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
