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
	// foreign: somebody else wrote a report after this one had come, and it may be the newer.
	foreign bool
}

func (c *Controller) plan(v view, e *entry, current *v1beta1.DeviceStatus, p *pending) (plan, error) {
	if current != nil && metav1.GetControllerOf(current) != nil && !ownedBy(current, v.device) {
		return plan{verb: verbDelete, desired: desire(v, nil, nil, c.deps.Now()), current: current, blocked: current.DeletionTimestamp != nil}, nil
	}
	report := (*Report)(nil)
	if p != nil {
		report = p.report
	}
	w := plan{verb: verbCreate, desired: desire(v, current, report, c.deps.Now()), current: current}
	if current == nil {
		return w, nil
	}
	var err error
	if w.patch, err = makePatch(current, w.desired, c.tracked(e)); err != nil || w.patch == nil {
		w.verb = ""
		return w, err
	}
	w.verb = verbPatch
	if p != nil {
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

// A contest is with another writer that undoes what this CloudCore judged, such as a CloudCore of another release with other words
// for it. The first time it is said again at once, then less and less often. One goroutine at a time may use it.
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
