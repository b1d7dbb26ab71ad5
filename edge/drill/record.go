package drill

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
)

const (
	// flicker is for how long a pod may be not Ready without having broken: a kubelet that starts looks at its pods anew.
	flicker = 10 * time.Second
	// maxChanges bounds what a record remembers; the rest is counted.
	maxChanges = 100
)

// A record is what was seen of one drill. It is kept as JSON, so that it outlives the agent.
type record struct {
	// Began says that Pods are those of the beginning.
	Began bool `json:"began"`
	// Pods are all that were seen, by uid.
	Pods map[string]*pod `json:"pods"`

	Changes     []drill.Change `json:"changes,omitempty"`
	MoreChanges int            `json:"moreChanges,omitempty"`
	Broke       []string       `json:"broke,omitempty"`
	MoreBroke   int            `json:"moreBroke,omitempty"`

	Starts, Reads, Unanswered int
	Slowest                   time.Duration
	Updates                   uint64
	// LostBefore is how many messages had gone undelivered when the cut began.
	LostBefore uint64
	Waited     []drill.Waiting `json:"waited,omitempty"`
}

type pod struct {
	Name string `json:"name"`
	// Well: it was Ready at the beginning, so that what becomes of it counts.
	Well  bool `json:"well,omitempty"`
	Ready bool `json:"ready,omitempty"`
	// Lost is when it was seen not to be Ready any more.
	Lost Moment `json:"lost"`
	// Leaving: its deletion is under way. Over: it ended or is gone.
	Leaving bool `json:"leaving,omitempty"`
	Over    bool `json:"over,omitempty"`

	Containers map[string]container `json:"containers"`
}

type container struct {
	ID       string `json:"id"`
	Restarts int32  `json:"restarts,omitempty"`
}

func newRecord(lost uint64) *record { return &record{Pods: map[string]*pod{}, LostBefore: lost} }

func (r *record) change(at Moment, what string) {
	if len(r.Changes) == maxChanges {
		r.MoreChanges++
		return
	}
	r.Changes = append(r.Changes, drill.Change{At: at.Wall.UTC().Truncate(time.Second), What: what})
}

func (r *record) broke(what string) {
	if len(r.Broke) == maxChanges {
		r.MoreBroke++
		return
	}
	r.Broke = append(r.Broke, what)
}

// harm notes a change that is one too many, if the pod was well.
func (r *record) harm(at Moment, p *pod, what string) {
	r.change(at, what)
	if p.Well {
		r.broke(what)
	}
}

// look compares the pods with those of the last look, and reports whether anything is another. cut says that the cloud could not
// have a hand in it.
func (r *record) look(at Moment, pods []corev1.Pod, cut bool) (changed bool) {
	before := len(r.Changes) + r.MoreChanges
	first := !r.Began
	r.Began = true
	here := map[string]bool{}
	for i := range pods {
		uid := string(pods[i].UID)
		here[uid] = true
		if r.Pods[uid] == nil {
			r.meet(at, &pods[i], first)
		}
		r.compare(at, r.Pods[uid], &pods[i])
	}
	for _, uid := range slices.Sorted(maps.Keys(r.Pods)) {
		p := r.Pods[uid]
		if here[uid] || p.Over {
			continue
		}
		p.Over = true
		if what := "pod " + p.Name + " is gone"; cut && !p.Leaving {
			r.harm(at, p, what)
		} else {
			r.change(at, what)
		}
	}
	return first || len(r.Changes)+r.MoreChanges > before
}

func (r *record) meet(at Moment, o *corev1.Pod, first bool) {
	p := &pod{Name: o.Namespace + "/" + o.Name, Ready: ready(o), Over: over(o), Leaving: o.DeletionTimestamp != nil, Containers: map[string]container{}}
	p.Well = first && p.Ready
	r.Pods[string(o.UID)] = p
	if !first {
		r.change(at, "pod "+p.Name+" is new")
	}
}

func (r *record) compare(at Moment, p *pod, o *corev1.Pod) {
	if p.Over {
		return
	}
	if o.DeletionTimestamp != nil && !p.Leaving {
		p.Leaving = true
		r.change(at, "pod "+p.Name+" is being deleted")
	}
	for _, s := range o.Status.ContainerStatuses {
		was, is := p.Containers[s.Name], container{s.ContainerID, s.RestartCount}
		if is.ID == "" {
			continue // it says nothing of the former one
		}
		p.Containers[s.Name] = is
		if was.ID != "" && is != was {
			r.harm(at, p, fmt.Sprintf("container %s of pod %s was restarted: its restart count was %d and is %d", s.Name, p.Name, was.Restarts, is.Restarts))
		}
	}
	switch is := ready(o); {
	case over(o):
		p.Over = true
		if what := fmt.Sprintf("pod %s has ended: %s %s", p.Name, o.Status.Phase, o.Status.Reason); o.Status.Phase == corev1.PodFailed {
			r.harm(at, p, what)
		} else {
			r.change(at, what)
		}
	case p.Ready && !is:
		p.Lost = at
		r.change(at, "pod "+p.Name+" is not Ready")
	case !p.Ready && is && p.Well:
		away := at.since(p.Lost).Round(time.Second)
		r.change(at, fmt.Sprintf("pod %s is Ready again after %s", p.Name, away))
		if away >= flicker && !p.Leaving {
			r.broke(fmt.Sprintf("pod %s was not Ready for %s", p.Name, away))
		}
	case !p.Ready && is:
		r.change(at, "pod "+p.Name+" is Ready")
	}
	p.Ready = ready(o)
}

func ready(o *corev1.Pod) bool {
	return slices.ContainsFunc(o.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func over(o *corev1.Pod) bool {
	return o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
}

// An ending is what is known besides the pods once all is over.
type ending struct {
	// kubelet is the state of a kubelet that does not run.
	kubelet string
	lost    uint64
}

// report judges what was seen.
func (r *record) report(n note, e ending) *drill.Report {
	out := &drill.Report{Began: n.Began.UTC().Truncate(time.Second), Ended: n.Ended.UTC().Truncate(time.Second), End: n.End, Power: n.Powered, Starts: r.Starts,
		Reads: r.Reads, Unanswered: r.Unanswered, Slowest: rounded(r.Slowest), DeviceUpdates: r.Updates, Waited: r.Waited,
		Lost: max(e.lost, r.LostBefore) - r.LostBefore, Linked: rounded(n.Linked), Delivered: rounded(n.Delivered),
		Changes: r.Changes, MoreChanges: r.MoreChanges, Broke: slices.Clone(r.Broke), MoreBroke: r.MoreBroke}
	broke := func(format string, args ...any) { out.Broke = append(out.Broke, fmt.Sprintf(format, args...)) }
	for _, uid := range slices.Sorted(maps.Keys(r.Pods)) {
		p := r.Pods[uid]
		out.Pods++
		out.Containers += len(p.Containers)
		if p.Well && !p.Ready && !p.Over && !p.Leaving {
			broke("pod %s is not Ready since %s", p.Name, stamp(p.Lost.Wall))
		}
	}
	expected := 0
	if n.Powered {
		expected = 1
	}
	if r.Starts > expected {
		broke("edgecore started %d times during the cut, expected %d", r.Starts, expected)
	}
	if n.Order.Power && !n.Powered && n.End == endDeadline {
		broke("edgecore was not killed as ordered: the cut ended before its middle")
	}
	if r.Unanswered > 0 {
		broke("the node's own API gave no answer to %d of %d reads", r.Unanswered, r.Reads)
	}
	if !r.Began {
		broke("the pods could not be read")
	}
	if out.Lost > 0 {
		broke("%d messages for the cloud were dropped undelivered", out.Lost)
	}
	if e.kubelet != "" {
		broke("the kubelet does not run: it is %s", e.kubelet)
	}
	if n.Delivered == 0 {
		broke("what waited for the cloud was not delivered within %s of the link", deliverWithin)
	}
	return out
}

func rounded(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: d.Round(time.Millisecond)}
}
