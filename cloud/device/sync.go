package device

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// maxTries is how often a write is computed again that met another writer, before its report is sent back.
const maxTries = 4

// errMoving: the DeviceStatus was another one at each look.
var errMoving = errors.New("it changes faster than it can be written")

// trusted is how long the outcome of a write is believed against a cache that is behind it. An API server that was restored from a
// backup never comes up to it.
const trusted = time.Minute

// sync brings one DeviceStatus in order, with the newest report if one waits. after says when it is this device's turn to write; the
// report stays where it is until then.
func (c *Controller) sync(ctx context.Context, key types.NamespacedName) (after time.Duration, err error) {
	d := cached[*v1beta1.Device](c.deps.Cache, object.Devices, key)
	if d == nil {
		c.forget(key)
		return 0, nil
	}
	e := c.entry(key)
	v := c.view(key, d)
	p := c.newest(key, e, d)
	for try := 0; ; try++ {
		current, err := c.current(ctx, key, e, try > 0)
		if err != nil {
			return 0, c.fail(key, p, err)
		}
		w, err := c.plan(v, e, current, p)
		if err != nil {
			return 0, c.fail(key, p, err)
		}
		c.setReady(e, w.ready())
		switch {
		case w.verb == "" && (p == nil || try > 0):
			e.turn.end()
			c.unchanged(key, p, current)
			return 0, nil
		case w.blocked:
			c.answer(key, p, later(http.StatusConflict, metav1.StatusReasonConflict, retryForbidden, "the DeviceStatus of an earlier device %s is not gone yet: a finalizer holds it", key))
			return 0, nil // the cache will say when it is gone
		case w.foreign:
			c.answer(key, p, later(http.StatusConflict, metav1.StatusReasonConflict, retrySoon, "another CloudCore wrote a report of this device meanwhile"))
			p = nil
			continue
		}
		if after := max(e.turn.wait(c.rates, p != nil), e.contest.wait(w, p != nil)); after > 0 {
			return after, nil
		}
		if !c.claim(e, p) {
			return 0, nil // the newer report has queued the device
		}
		if w.verb == "" {
			continue // the cache may be behind another CloudCore's report: what is acknowledged was seen in the API server
		}
		done, err := c.write(ctx, d, e, p, w)
		if !done && (err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)) && try < maxTries {
			if w.verb != verbDelete {
				c.m.conflicts.Inc()
				pause(ctx)
			}
			continue
		}
		e.turn.end()
		if !done {
			return 0, c.fail(key, p, err)
		}
		e.contest.wrote(w, p != nil)
		if w.restores {
			c.sayRestored(ctx, d, w, time.Until(e.contest.until))
		}
		return 0, nil
	}
}

// newest is the report that waits. One that the Device, as it is now, speaks against goes back: it is judged when it comes again.
func (c *Controller) newest(key types.NamespacedName, e *entry, d *v1beta1.Device) *pending {
	c.mu.Lock()
	p := e.waiting
	c.mu.Unlock()
	if p != nil && against(p.node, key, p.report.UID, d) != nil {
		c.answer(key, p, later(http.StatusConflict, metav1.StatusReasonConflict, retrySoon, "device %s changed while the report waited", key))
		return nil
	}
	return p
}

// forget drops what is known of a device that is gone.
func (c *Controller) forget(key types.NamespacedName) {
	c.index.remove(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answerLocked(key, nil, later(http.StatusConflict, metav1.StatusReasonConflict, retrySoon, "device %s is gone", key))
	delete(c.entries, key)
}

// known is the DeviceStatus as this CloudCore knows it, nil if it knows of none, and whether the cache has one.
func (c *Controller) known(key types.NamespacedName, e *entry) (_ *v1beta1.DeviceStatus, there bool) {
	s := cached[*v1beta1.DeviceStatus](c.deps.Cache, object.DeviceStatuses, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := e.written; w == nil || s != nil && versionOf(s) >= versionOf(w) || time.Since(e.at) > trusted {
		e.written = nil
		return s, s != nil
	}
	return e.written, s != nil
}

// current is the DeviceStatus that a write is computed for; nil if there is none. With fresh it is the API server's.
func (c *Controller) current(ctx context.Context, key types.NamespacedName, e *entry, fresh bool) (*v1beta1.DeviceStatus, error) {
	if !fresh {
		s, there := c.known(key, e)
		if s == nil || there {
			return s, nil
		}
		// It was written and the cache has none: the cache has not heard of it yet, or has heard of its end.
	}
	s, err := c.deps.API.Status(ctx, key)
	if apierrors.IsNotFound(err) {
		s, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read DeviceStatus %s: %w", key, err)
	}
	c.note(e, s)
	return s, nil
}

// note keeps what the API server said last, until the cache has it.
func (c *Controller) note(e *entry, s *v1beta1.DeviceStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.written, e.at = s, time.Now()
	e.tracked = s != nil && oursAlone(s.ManagedFields)
}

func (c *Controller) tracked(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return e.tracked
}

func (c *Controller) setReady(e *entry, ready metav1.Condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.ready = ready.Status
}

// unchanged answers a report that says what the API server has.
func (c *Controller) unchanged(key types.NamespacedName, p *pending, current *v1beta1.DeviceStatus) {
	if p != nil {
		c.m.unchanged.Inc()
		c.answer(key, p, &wire.Result{Code: http.StatusOK, Final: true, ResourceVersion: versionOf(current)})
	}
}

// fail answers the report and returns the error: what is to be said without a report is tried again.
func (c *Controller) fail(key types.NamespacedName, p *pending, err error) error {
	if err == nil {
		err = fmt.Errorf("write DeviceStatus %s: %w", key, errMoving)
	}
	if p != nil {
		c.answer(key, p, answerTo(err))
	}
	return err
}

// write makes a plan's write. done says that the object is now as it should be.
func (c *Controller) write(ctx context.Context, d *v1beta1.Device, e *entry, p *pending, w plan) (done bool, err error) {
	key := types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
	var s *v1beta1.DeviceStatus
	switch w.verb {
	case verbCreate:
		s, err = c.deps.API.Create(ctx, w.desired)
	case verbPatch:
		s, err = c.deps.API.Patch(ctx, key, w.patch)
	case verbDelete:
		err = c.deps.API.Delete(ctx, key, w.current.UID)
	}
	c.m.writes.WithLabelValues(w.verb, codeLabel(codeOf(err))).Inc()
	if w.verb != verbCreate && apierrors.IsNotFound(err) {
		return false, nil // it is gone, and made anew at the next look
	}
	if err != nil {
		return false, fmt.Errorf("%s DeviceStatus %s: %w", w.verb, key, err)
	}
	if w.verb == verbDelete {
		return false, nil
	}
	base, err := printOf(s)
	if err != nil {
		return false, err
	}
	if _, err := e.memory.take(d, s); err != nil {
		return false, err
	}
	c.note(e, s)
	c.rebase(e, base)
	if p != nil {
		c.answer(key, p, &wire.Result{Code: http.StatusOK, Final: true, ResourceVersion: versionOf(s)})
	}
	return true, nil
}

// rebase tells the reports that came during a write what they follow.
func (c *Controller) rebase(e *entry, base print) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.writes++
	e.print = base
	if e.waiting != nil {
		e.waiting.base = base
	}
}

// pause waits a moment, so that two writers of one object do not stay in step.
func pause(ctx context.Context) {
	t := time.NewTimer(rand.N(20 * time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// codeOf is the API server's code; 0 where it gave none.
func codeOf(err error) int32 {
	if err == nil {
		return http.StatusOK
	}
	return answerTo(err).Code
}

// versionOf is the resourceVersion as a number; 0 where it is none.
func versionOf(s *v1beta1.DeviceStatus) uint64 {
	v, err := object.VersionOf(s)
	if err != nil {
		return 0
	}
	return v.RV
}
