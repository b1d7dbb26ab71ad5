package device

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// What a plan does.
const (
	verbCreate = "create"
	verbPatch  = "patch"
	verbDelete = "delete"
)

// A plan is one write, or none where verb is empty.
type plan struct {
	verb    string
	desired *v1beta1.DeviceStatus
	current *v1beta1.DeviceStatus
	patch   []byte
	// blocked: the object is of an earlier Device, and is being deleted.
	blocked bool
	// foreign: another CloudCore wrote a report after this one had come, and it may be the newer.
	foreign bool
	// restores: what the node reported last is not there any more, and is written again.
	restores bool
}

func (c *Controller) plan(v view, e *entry, current *v1beta1.DeviceStatus, p *pending) (w plan, err error) {
	lost, err := e.memory.look(v.device, current, c.deps.Holds(v.device.Spec.NodeName))
	if err != nil {
		return w, err
	}
	v.last = e.memory.seal
	w.current = current
	if current != nil && metav1.GetControllerOf(current) != nil && !ownedBy(current, v.device) {
		w.verb, w.blocked = verbDelete, current.DeletionTimestamp != nil
		w.desired, err = desire(v, nil, nil, c.deps.Now())
		return w, err
	}
	report := lost
	if p != nil {
		report = p.report
	}
	w.restores = report != nil && p == nil
	if w.desired, err = desire(v, current, report, c.deps.Now()); err != nil {
		return w, err
	}
	if current == nil {
		w.verb = verbCreate
		return w, nil
	}
	if w.patch, err = makePatch(current, w.desired, c.tracked(e)); err != nil || w.patch == nil {
		return w, err
	}
	w.verb = verbPatch
	if p != nil && lost == nil { // what is no CloudCore's is no report
		now, err := printOf(current)
		w.foreign = now != "" && now != p.base
		return w, err
	}
	return w, nil
}

// ready is what the plan says in the Ready condition, without a time.
func (w plan) ready() metav1.Condition {
	i := indexOf(w.desired.Status.Conditions, v1beta1.ConditionReady)
	c := w.desired.Status.Conditions[i]
	c.LastTransitionTime = metav1.Time{}
	return c
}

// A contest is with another writer that undoes what this CloudCore judged or put right, such as a CloudCore of another release with
// other words for it. The first time it is said again at once, then less and less often. One goroutine at a time may use it.
type contest struct {
	said  metav1.Condition
	again int       // how often the same was said again
	until time.Time // before which it is not
}

// Delays between two of the same judgements, and how long without any ends a contest.
const (
	contestFirst, contestLast = time.Second, 5 * time.Minute
	contestOver               = 2 * contestLast
)

func (x *contest) wait(w plan, hasReport bool) time.Duration {
	if hasReport || w.ready() != x.said {
		return 0
	}
	return time.Until(x.until)
}

func (x *contest) wrote(w plan, hasReport bool) {
	switch ready := w.ready(); {
	case ready != x.said:
		*x = contest{said: ready}
	case hasReport:
	case time.Since(x.until) > contestOver:
		x.again, x.until = 0, time.Now()
	default:
		x.until = time.Now().Add(min(contestFirst<<min(x.again, 16), contestLast))
		x.again++
	}
}
