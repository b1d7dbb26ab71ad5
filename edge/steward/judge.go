package steward

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// Times of the judgement.
const (
	// Patience is how long the cluster may not know of a pod's end before a stand-in is made; it doubles with each stand-in of a pod
	// that ends too, up to maxPatience.
	Patience    = 20 * time.Second
	maxPatience = 5 * time.Minute
	// orphanAfter is how long a stand-in outlives the pod that it stands for, once the cluster has deleted that one and given
	// this node no other.
	orphanAfter = 5 * time.Minute
	// occupiedEvery is how often the runtime is asked whether the former pod of a StatefulSet's name has ended.
	occupiedEvery = 2 * time.Second
)

// A seen is one pod of a picture.
type seen struct {
	*corev1.Pod
	// Held: the cloud lost it. Local: it was made here. Withheld: the kubelet is not shown it.
	Held, Local, Withheld bool
	// Undelivered: what the kubelet last said of it has not reached the cloud.
	Undelivered bool
	// Occupied: the runtime has, or may have, another pod of its name.
	Occupied bool
}

// kept reports whether the site has the pod without the cloud.
func (s seen) kept() bool { return s.Held || s.Local }

// A picture is what is judged.
type picture struct {
	pods []seen
	node *corev1.Node // nil if the store has none
	// synced: there is a link, and all that the cloud has is here.
	synced bool
	now    time.Time
	// fencing: pods that ask for it are to be ended.
	fencing bool
}

// A verb is what is done to a pod.
type verb string

const (
	create   verb = "create"   // a stand-in for it
	discard  verb = "discard"  // it, a stand-in that has ended
	retire   verb = "retire"   // end it, a kept pod
	adopt    verb = "adopt"    // add uids to its peers
	withhold verb = "withhold" // from the kubelet
	release  verb = "release"  // to the kubelet
)

// A step is one thing to do. Steps are done in order; one that fails ends the pass, and the next picture is judged anew.
type step struct {
	verb
	pod     seen
	peers   []types.UID // of create and adopt
	attempt int         // of create
	because string      // of retire and withhold
}

// A judge remembers since when something is so. It is not safe for concurrent use.
type judge struct {
	since     map[string]time.Time
	dismissed map[types.UID]bool // pods that nobody is to stand in for
}

func newJudge() *judge {
	return &judge{since: map[string]time.Time{}, dismissed: map[types.UID]bool{}}
}

// judgement is the state of one pass.
type judgement struct {
	*judge
	picture
	steps []step
	wake  time.Time // when to look again though nothing changes; zero if never
	known map[string]bool
	going map[types.UID]bool // kept pods that are retired in this pass
}

// judge returns what to do, in order, and when to look again; zero if only a change makes a difference.
func (j *judge) judge(p picture) ([]step, time.Time) {
	slices.SortFunc(p.pods, func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	g := &judgement{judge: j, picture: p, known: map[string]bool{}, going: map[types.UID]bool{}}
	g.fence()
	g.retireReplaced()
	g.admit()
	g.standIn()
	for key := range j.since {
		if !g.known[key] {
			delete(j.since, key)
		}
	}
	return g.steps, g.wake
}

// lasting reports whether something has been so for d, and sees to it that it is asked again when it may.
func (g *judgement) lasting(what string, uid types.UID, d time.Duration) bool {
	key := what + "/" + string(uid)
	g.known[key] = true
	begun, ok := g.since[key]
	if !ok {
		begun = g.now
		g.since[key] = begun
	}
	due := begun.Add(d)
	if !g.now.Before(due) {
		return true
	}
	if g.wake.IsZero() || due.Before(g.wake) {
		g.wake = due
	}
	return false
}

// again has the judge asked again after d.
func (g *judgement) again(d time.Duration) {
	if due := g.now.Add(d); g.wake.IsZero() || due.Before(g.wake) {
		g.wake = due
	}
}

func (g *judgement) do(s step) { g.steps = append(g.steps, s) }

// fence withholds what has to end, and fences says of which pods that is true.
func (g *judgement) fence() {
	for _, p := range g.pods {
		if g.fences(p) && !p.Withheld {
			g.do(step{verb: withhold, pod: p, because: "the node is cut off"})
		}
	}
}

// fences reports whether a pod must not run now. A static pod cannot be withheld: it runs from a file.
func (g *judgement) fences(p seen) bool {
	return g.fencing && p.Annotations[Fence] == "true" && !object.IsMirror(p.Pod)
}

// retireReplaced ends kept pods whose successor is Ready, that nobody wants, or whose reason is gone.
func (g *judgement) retireReplaced() {
	for _, k := range g.pods {
		if k.Held && ended(k.Pod) && g.synced {
			g.do(step{verb: discard, pod: k}) // nobody else has it
		}
		if !k.kept() || ended(k.Pod) || k.DeletionTimestamp != nil {
			continue
		}
		if because := g.unwanted(k); because != "" {
			g.end(k, because, "")
			continue
		}
		fresh := g.successors(k)
		i := slices.IndexFunc(fresh, func(f seen) bool { return ready(f.Pod) && !f.Withheld })
		switch {
		case i >= 0:
			g.end(k, "pod "+fresh[i].Name+" has taken over", fresh[i].UID)
		case g.orphan(k) && len(fresh) == 0 && g.orphaned(k):
			g.end(k, "the cluster deleted pod "+k.Annotations[StandInFor]+" and gave this node no other", "")
		}
	}
}

// unwanted says why somebody wants a kept pod to end, or "".
func (g *judgement) unwanted(k seen) string {
	if k.Held && k.Annotations[Hold] == "false" && g.synced {
		return "the cluster lost it, and its annotation " + Hold + " says not to keep it"
	}
	if o, ok := g.original(k); ok && o.Annotations[Hold] == "false" {
		return "the annotation " + Hold + " of pod " + o.Name + " says not to keep it"
	}
	return ""
}

// original returns the pod that a stand-in stands for.
func (g *judgement) original(k seen) (seen, bool) {
	if !isStandIn(k.Pod) {
		return seen{}, false
	}
	i := slices.IndexFunc(g.pods, func(p seen) bool { return string(p.UID) == k.Annotations[StandInForUID] })
	if i < 0 {
		return seen{}, false
	}
	return g.pods[i], true
}

// orphan reports whether the pod that a stand-in stands for is gone.
func (g *judgement) orphan(k seen) bool {
	_, there := g.original(k)
	return isStandIn(k.Pod) && !there
}

// orphaned reports whether an orphan has waited long enough for another pod of its controller. The cluster may make one of a StatefulSet
// elsewhere at once, and two of one identity must not run.
func (g *judgement) orphaned(k seen) bool {
	if o, _ := ownerOf(k.Pod); o.kind == statefulSet {
		return g.synced
	}
	if !g.synced { // the time that has passed counts
		g.known["orphan/"+string(k.UID)] = true
		return false
	}
	return g.lasting("orphan", k.UID, orphanAfter)
}

// successors are the cluster's pods that can replace a kept one.
func (g *judgement) successors(k seen) []seen {
	o, owned := ownerOf(k.Pod)
	if !owned {
		return nil
	}
	peers := peersOf(k.Pod)
	name := k.Name
	if isStandIn(k.Pod) {
		name = k.Annotations[StandInFor]
	}
	var list []seen
	for _, p := range g.pods {
		if p.kept() || ended(p.Pod) || p.DeletionTimestamp != nil || !sameOwner(p.Pod, k.Pod) || slices.Contains(peers, p.UID) ||
			g.taken(k, p) || o.kind == statefulSet && p.Name != name {
			continue
		}
		list = append(list, p)
	}
	return list
}

// taken reports whether p replaces another than k by a step of this pass.
func (g *judgement) taken(k, p seen) bool {
	return slices.ContainsFunc(g.steps, func(s step) bool {
		return s.verb == adopt && s.pod.UID == k.UID && slices.Contains(s.peers, p.UID)
	})
}

// end retires k. by, if it is not empty, takes its place and nobody else's.
func (g *judgement) end(k seen, because string, by types.UID) {
	g.leave(k, by)
	g.do(step{verb: retire, pod: k, because: because})
}

// leave notes that k goes in this pass, and that by has its place.
func (g *judgement) leave(k seen, by types.UID) {
	if by != "" {
		for _, other := range g.pods {
			if other.UID != k.UID && !g.going[other.UID] && other.kept() && !ended(other.Pod) && sameOwner(other.Pod, k.Pod) && !slices.Contains(peersOf(other.Pod), by) {
				g.do(step{verb: adopt, pod: other, peers: []types.UID{by}})
			}
		}
	}
	g.going[k.UID] = true
}

// admit shows the kubelet what was withheld for the sake of kept pods: at once where both fit beside each other, else when one
// of those has ended.
func (g *judgement) admit() {
	waiting := map[owner]int{}
	released := []seen{}
	// First those that a fence withheld: what has a successor by now does not come back.
	for _, k := range g.pods {
		if !k.Withheld || !k.kept() || g.fences(k) || ended(k.Pod) {
			continue
		}
		if fresh := g.successors(k); len(fresh) > 0 {
			g.leave(k, fresh[0].UID)
			g.do(step{verb: discard, pod: k})
		} else {
			released = append(released, k)
			g.do(step{verb: release, pod: k})
		}
	}
	for _, w := range g.pods {
		if !w.Withheld || w.kept() || g.fences(w) {
			continue
		}
		blockers := g.blockers(w)
		if o, _ := ownerOf(w.Pod); o.kind == statefulSet && w.Occupied && w.DeletionTimestamp == nil {
			g.again(occupiedEvery)
			continue
		}
		if w.DeletionTimestamp != nil || len(blockers) == 0 || g.fits(w, released) {
			released = append(released, w)
			g.do(step{verb: release, pod: w})
			continue
		}
		o, _ := ownerOf(w.Pod)
		waiting[o]++
		leaving := 0
		for _, b := range blockers {
			if b.DeletionTimestamp != nil || g.going[b.UID] {
				leaving++
			}
		}
		if leaving >= waiting[o] {
			continue
		}
		i := slices.IndexFunc(blockers, func(b seen) bool { return b.DeletionTimestamp == nil && !g.going[b.UID] })
		if i >= 0 {
			g.end(blockers[i], "pod "+w.Name+" takes over, for which there is no room beside it", w.UID)
		}
	}
}

// blockers are the kept pods whose place a withheld one takes.
func (g *judgement) blockers(w seen) []seen {
	var list []seen
	for _, k := range g.pods {
		if k.kept() && k.UID != w.UID && !ended(k.Pod) && !g.fences(k) && !(k.Withheld && g.going[k.UID]) && sameOwner(k.Pod, w.Pod) && succeeds(w.Pod, k.Pod) {
			list = append(list, k)
		}
	}
	return list
}

// succeeds reports whether w may be the successor of k, of the same owner: in a StatefulSet only the one of its name is.
func succeeds(w, k *corev1.Pod) bool {
	if o, _ := ownerOf(w); o.kind != statefulSet {
		return true
	}
	return w.Name == k.Name || w.Name == k.Annotations[StandInFor]
}

// Withhold judges a pod that comes from the cloud, as store.Deps.Withhold wants it: whether one that the site keeps may be in its way.
func Withhold(pod *corev1.Pod, kept []*corev1.Pod) bool {
	return slices.ContainsFunc(kept, func(k *corev1.Pod) bool {
		return k.UID != pod.UID && !ended(k) && sameOwner(k, pod) && succeeds(pod, k)
	})
}

// standIn makes stand-ins for pods that ended for good while the cluster cannot hear of it, and clears away those that ended too.
func (g *judgement) standIn() {
	for _, o := range g.pods {
		copies := g.copies(o)
		live := slices.ContainsFunc(copies, func(c seen) bool { return !ended(c.Pod) })
		wanted := g.wants(o) && !g.fences(o)
		if o.Local || live {
			continue
		}
		attempt := 1
		for _, c := range copies {
			attempt = max(attempt, attemptOf(c.Pod)+1)
		}
		if wanted && !g.lasting("ended", lastOf(o, copies), patience(attempt)) {
			continue
		}
		for _, c := range copies {
			if !wanted || !g.pressed() {
				g.do(step{verb: discard, pod: c})
			}
		}
		if wanted && !g.pressed() {
			g.do(step{verb: create, pod: o, attempt: attempt, peers: g.peers(o)})
		} else if wanted {
			g.lasting("pressed", o.UID, Patience)
		}
	}
	for _, c := range g.pods {
		if _, there := g.original(c); isStandIn(c.Pod) && ended(c.Pod) && !there {
			g.do(step{verb: discard, pod: c})
		}
	}
}

// wants reports whether o has ended, is to run, and the cluster does not know. An evicted pod whose containers end well is Succeeded.
func (g *judgement) wants(o seen) bool {
	if o.Local || !ended(o.Pod) || o.DeletionTimestamp != nil || !o.Undelivered || g.dismissed[o.UID] {
		return false
	}
	ok, _ := keepable(o.Pod)
	return ok
}

// copies are the stand-ins for o.
func (g *judgement) copies(o seen) []seen {
	var list []seen
	for _, p := range g.pods {
		if isStandIn(p.Pod) && p.Annotations[StandInForUID] == string(o.UID) {
			list = append(list, p)
		}
	}
	return list
}

// lastOf is the pod whose end is the latest: that of the last stand-in, or of the pod itself.
func lastOf(o seen, copies []seen) types.UID {
	uid, attempt := o.UID, 0
	for _, c := range copies {
		if n := attemptOf(c.Pod); n > attempt {
			uid, attempt = c.UID, n
		}
	}
	return uid
}

// peers are the pods of o's owner that are here now: none of them replaces a stand-in for o.
func (g *judgement) peers(o seen) []types.UID {
	var uids []types.UID
	for _, p := range g.pods {
		if !p.kept() && sameOwner(p.Pod, o.Pod) {
			uids = append(uids, p.UID)
		}
	}
	return uids
}

// pressed reports whether the node is short of something, so that the kubelet would reject or evict a pod again.
func (g *judgement) pressed() bool {
	if g.node == nil {
		return true
	}
	return slices.ContainsFunc(g.node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return strings.HasSuffix(string(c.Type), "Pressure") && !strings.Contains(string(c.Type), "/") && c.Status == corev1.ConditionTrue
	})
}

// patience is how long to wait before the stand-in of that attempt.
func patience(attempt int) time.Duration {
	d := Patience
	for ; attempt > 1 && d < maxPatience; attempt-- {
		d *= 2
	}
	return min(d, maxPatience)
}
