package steward

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A change makes a pod of a test another one.
type change func(*seen)

func pod(name string, changes ...change) seen {
	p := seen{Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name + "-uid"), Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}}
	of("ReplicaSet", "web-1")(&p)
	for _, c := range changes {
		c(&p)
	}
	return p
}

func of(kind, name string) change {
	return func(p *seen) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, UID: "owner", Controller: &yes}}
	}
}

func isReady(p *seen) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

// evicted: for good, and the cloud does not know.
func evicted(p *seen) {
	p.Status.Phase, p.Status.Reason, p.Undelivered = corev1.PodFailed, "Evicted", true
}

func held(p *seen)      { p.Held = true }
func withheld(p *seen)  { p.Withheld = true }
func delivered(p *seen) { p.Undelivered = false }
func deleted(p *seen)   { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

func annotated(key, value string) change { return func(p *seen) { p.Annotations[key] = value } }

// standsFor makes a pod the stand-in for another.
func standsFor(name string, peers ...types.UID) change {
	return func(p *seen) {
		p.Local = true
		p.Annotations[StandInFor], p.Annotations[StandInForUID] = name, name+"-uid"
		setPeers(p.Pod, peers)
	}
}

func asks(cpu string, hostPort int32) change {
	return func(p *seen) {
		c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}
		if hostPort != 0 {
			c.Ports = []corev1.ContainerPort{{HostPort: hostPort}}
		}
		p.Spec.Containers = []corev1.Container{c}
	}
}

func node(conditions ...corev1.NodeConditionType) *corev1.Node {
	n := &corev1.Node{Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")}}}
	for _, c := range conditions {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: corev1.ConditionTrue})
	}
	return n
}

// words says steps in short: "retire web-a", "adopt web-b+web-c-uid".
func words(steps []step) string {
	var list []string
	for _, s := range steps {
		w := string(s.verb) + " " + s.pod.Name
		if s.verb == adopt || s.verb == create {
			for _, uid := range s.peers {
				w += "+" + strings.TrimSuffix(string(uid), "-uid")
			}
		}
		if s.verb == create {
			w += fmt.Sprintf(" #%d", s.attempt)
		}
		list = append(list, w)
	}
	return strings.Join(list, ", ")
}

var start = time.Unix(1000, 0)

// later judges p at once and again after d, and returns what is to be done then.
func later(t *testing.T, d time.Duration, p picture) string {
	t.Helper()
	j := newJudge()
	p.now = start
	first, wake := j.judge(p)
	if d == 0 {
		return words(first)
	}
	if len(first) > 0 || wake.IsZero() || wake.After(start.Add(d)) {
		t.Errorf("at first %q, to be judged again at %v: expected nothing, and to be asked within %v", words(first), wake, d)
	}
	p.now = start.Add(d)
	steps, _ := j.judge(p)
	return words(steps)
}

func TestAPodThatEndsForGoodOfflineGetsAStandIn(t *testing.T) {
	for name, c := range map[string]struct {
		pods []seen
		node *corev1.Node
		want string
	}{
		"evicted":                 {pods: []seen{pod("a", evicted)}, want: "create a+a #1"},
		"beside others":           {pods: []seen{pod("a", evicted), pod("b"), pod("c", of("ReplicaSet", "other"))}, want: "create a+a+b #1"},
		"a DaemonSet's":           {pods: []seen{pod("a", of("DaemonSet", "log"), evicted)}, want: "create a+a #1"},
		"the cloud knows":         {pods: []seen{pod("a", evicted, delivered)}},
		"it is deleted":           {pods: []seen{pod("a", evicted, deleted)}},
		"it is held back by name": {pods: []seen{pod("a", evicted, annotated(Hold, "false"))}},
		"a Job's":                 {pods: []seen{pod("a", of("Job", "once"), evicted)}},
		"an unknown controller's": {pods: []seen{pod("a", of("Database", "db"), evicted)}},
		"of which it is said":     {pods: []seen{pod("a", of("Database", "db"), evicted, annotated(Hold, "true"))}, want: "create a+a #1"},
		"without a controller":    {pods: []seen{pod("a", evicted, func(p *seen) { p.OwnerReferences = nil })}},
		"one that is to end":      {pods: []seen{pod("a", evicted, func(p *seen) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })}},
		"its time is over":        {pods: []seen{pod("a", evicted, func(p *seen) { p.Status.Reason = "DeadlineExceeded" })}},
		"claims devices":          {pods: []seen{pod("a", evicted, func(p *seen) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} })}},
		"it ended well":           {pods: []seen{pod("a", evicted, func(p *seen) { p.Status.Phase, p.Status.Reason = corev1.PodSucceeded, "" })}, want: "create a+a #1"},
		"it runs":                 {pods: []seen{pod("a", evicted, func(p *seen) { p.Status.Phase = corev1.PodRunning })}},
		"it has one":              {pods: []seen{pod("a", evicted), pod("s", standsFor("a", "a-uid"))}},
		"under pressure":          {pods: []seen{pod("a", evicted)}, node: node(corev1.NodeDiskPressure)},
		"a condition of ours":     {pods: []seen{pod("a", evicted)}, node: node("tether.io/NoPressure"), want: "create a+a #1"},
		"its stand-in ended too":  {pods: []seen{pod("a", evicted), pod("s", standsFor("a", "a-uid"), evicted)}, want: "discard s, create a+a #2"},
	} {
		t.Run(name, func(t *testing.T) {
			n := c.node
			if n == nil {
				n = node()
			}
			j := newJudge()
			p := picture{pods: c.pods, node: n, now: start}
			if steps, _ := j.judge(p); len(steps) > 0 {
				t.Errorf("at once: %s", words(steps))
			}
			p.now = start.Add(2 * Patience)
			if steps, _ := j.judge(p); words(steps) != c.want {
				t.Errorf("%q, expected %q", words(steps), c.want)
			}
		})
	}
}

// A cloud that hears of the end before the patience is over makes another pod itself.
func TestAnEndThatTheCloudHearsOfInTimeIsTheControllers(t *testing.T) {
	j := newJudge()
	p := picture{pods: []seen{pod("a", evicted)}, node: node(), now: start}
	j.judge(p)
	p.pods, p.now = []seen{pod("a", evicted, delivered)}, start.Add(Patience-1)
	j.judge(p)
	p.pods, p.now = []seen{pod("a", evicted)}, start.Add(Patience)
	if steps, _ := j.judge(p); len(steps) > 0 {
		t.Errorf("%s: expected the patience to begin anew", words(steps))
	}
}

func TestTheNextStandInTakesLonger(t *testing.T) {
	if a, b, c, last := patience(1), patience(2), patience(3), patience(1<<30); a != Patience || b != 2*a || c != 4*a || last != maxPatience {
		t.Errorf("patience of %v, %v, %v, at last %v", a, b, c, last)
	}
}

func TestWhatIsKeptRetiresForAReadySuccessor(t *testing.T) {
	for name, c := range map[string]struct {
		pods []seen
		want string
	}{
		"a stand-in":                {[]seen{pod("a", evicted), pod("s", standsFor("a", "a-uid")), pod("b", isReady)}, "retire s"},
		"a held pod":                {[]seen{pod("a", held), pod("b", isReady)}, "retire a"},
		"not yet ready":             {[]seen{pod("a", held), pod("b")}, ""},
		"ready and not to be shown": {[]seen{pod("s", standsFor("a", "b-uid")), pod("b", isReady, withheld)}, "release b"},
		"that was there before":     {[]seen{pod("a", evicted), pod("s", standsFor("a", "a-uid", "b-uid")), pod("b", isReady)}, ""},
		"one for two":               {[]seen{pod("a", held), pod("b", held), pod("c", isReady)}, "adopt b+c, retire a"},
		"two for two":               {[]seen{pod("a", held), pod("b", held), pod("c", isReady), pod("d", isReady)}, "adopt b+c, retire a, retire b"},
		"of another owner":          {[]seen{pod("a", held), pod("b", isReady, of("ReplicaSet", "other"))}, ""},
		"that ends":                 {[]seen{pod("a", held), pod("b", isReady, deleted)}, ""},
		"it ends already":           {[]seen{pod("a", held, deleted), pod("b", isReady)}, ""},
		"a StatefulSet's other":     {[]seen{pod("db-0", of("StatefulSet", "db"), evicted), pod("s", of("StatefulSet", "db"), standsFor("db-0")), pod("db-1", of("StatefulSet", "db"), isReady)}, ""},
		"a StatefulSet's same":      {[]seen{pod("s", of("StatefulSet", "db"), standsFor("db-0")), pod("db-0", of("StatefulSet", "db"), isReady)}, "retire s"},
		"without a controller": {[]seen{pod("a", held, func(p *seen) { p.OwnerReferences = nil }),
			pod("b", isReady, func(p *seen) { p.OwnerReferences = nil })}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJudge()
			steps, _ := j.judge(picture{pods: c.pods, node: node(), now: start, synced: true})
			if words(steps) != c.want {
				t.Errorf("%q, expected %q", words(steps), c.want)
			}
		})
	}
}

// The ReplicaSets of one Deployment are one owner: a rollout while the site was away gives each pod another.
func TestAPodOfTheNextRolloutReplacesOneOfTheFormer(t *testing.T) {
	hash := func(h string) change {
		return func(p *seen) {
			p.Labels = map[string]string{"pod-template-hash": h}
			of("ReplicaSet", "web-"+h)(p)
		}
	}
	pods := []seen{pod("a", held, hash("7f")), pod("b", isReady, hash("9c"))}
	if got := later(t, 0, picture{pods: pods, node: node(), synced: true}); got != "retire a" {
		t.Errorf("%q", got)
	}
}

func TestWhoSaysSoEndsWhatIsKept(t *testing.T) {
	said := annotated(Hold, "false")
	for name, c := range map[string]struct {
		pods   []seen
		synced bool
		want   string
	}{
		"at the pod that ended":          {[]seen{pod("a", evicted, said), pod("s", standsFor("a"))}, false, "retire s"},
		"at a held pod":                  {[]seen{pod("a", held, said)}, true, "retire a"},
		"at one, while nothing is heard": {[]seen{pod("a", held, said)}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := later(t, 0, picture{pods: c.pods, node: node(), synced: c.synced}); got != c.want {
				t.Errorf("%q, expected %q", got, c.want)
			}
		})
	}
}

// A Deployment that is deleted takes its stand-ins along: the cluster can be heard, has deleted the pod, and sends no other.
func TestAStandInForADeletedPodEnds(t *testing.T) {
	orphan := []seen{pod("s", standsFor("a"))}
	if got := later(t, orphanAfter, picture{pods: orphan, node: node(), synced: true}); got != "retire s" {
		t.Errorf("%q", got)
	}
	if got := later(t, 0, picture{pods: []seen{pod("s", of("StatefulSet", "db"), standsFor("db-0"))}, node: node(), synced: true}); got != "retire s" {
		t.Errorf("of a StatefulSet, whose next pod may start elsewhere at once: %q", got)
	}
	flapping, j := picture{pods: orphan, node: node(), synced: true, now: start}, newJudge()
	j.judge(flapping)
	flapping.synced, flapping.now = false, start.Add(orphanAfter/2)
	j.judge(flapping)
	flapping.synced, flapping.now = true, start.Add(orphanAfter)
	if steps, _ := j.judge(flapping); words(steps) != "retire s" {
		t.Errorf("with a link that was away in between: %q", words(steps))
	}
	for name, p := range map[string]picture{
		"the cluster cannot be heard": {pods: orphan, node: node()},
		"another is coming":           {pods: append([]seen{pod("b")}, orphan...), node: node(), synced: true},
	} {
		j := newJudge()
		for range 2 {
			if steps, _ := j.judge(p); len(steps) > 0 {
				t.Errorf("%s: %s", name, words(steps))
			}
			p.now = p.now.Add(2 * orphanAfter)
		}
	}
}

// The kubelet rejects for good what finds no room or a port that is taken: such a successor is shown to it when its place is free.
func TestASuccessorIsShownOnceThereIsRoom(t *testing.T) {
	for name, c := range map[string]struct {
		kept, comes change
		more        []seen
		want        string
	}{
		"both fit":                    {asks("1", 0), asks("1", 0), nil, "release w"},
		"no room for both":            {asks("1500m", 0), asks("1500m", 0), nil, "retire s"},
		"one port":                    {asks("1", 8080), asks("1", 8080), nil, "retire s"},
		"others take the room":        {asks("500m", 0), asks("1", 0), []seen{pod("x", of("ReplicaSet", "x"), asks("1", 0))}, "retire s"},
		"one of those has ended":      {asks("500m", 0), asks("1", 0), []seen{pod("x", of("ReplicaSet", "x"), asks("1", 0), evicted, delivered)}, "release w"},
		"what is withheld takes none": {asks("1", 0), asks("1", 0), []seen{pod("x", of("ReplicaSet", "x"), asks("1", 0), withheld, annotated(Fence, "true"))}, "release w, release x"},
	} {
		t.Run(name, func(t *testing.T) {
			pods := append([]seen{pod("s", standsFor("a", "a-uid"), c.kept), pod("w", withheld, c.comes)}, c.more...)
			if got := later(t, 0, picture{pods: pods, node: node(), synced: true}); got != c.want {
				t.Errorf("%q, expected %q", got, c.want)
			}
		})
	}
	big := asks("1500m", 0)
	leaving := []seen{pod("s", standsFor("a"), big, deleted), pod("w", withheld, big)}
	if got := later(t, 0, picture{pods: leaving, node: node(), synced: true}); got != "" {
		t.Errorf("while the stand-in ends: %q, expected to wait", got)
	}
	one := []seen{pod("s", standsFor("a"), big, deleted), pod("t", standsFor("b"), big), pod("w", withheld, big)}
	if got := later(t, 0, picture{pods: one, node: node(), synced: true}); got != "" {
		t.Errorf("one place is being freed: %q, expected no other to end", got)
	}
	gone := []seen{pod("w", withheld, asks("9", 0))}
	if got := later(t, 0, picture{pods: gone, node: node(), synced: true}); got != "release w" {
		t.Errorf("with nothing in its way: %q, expected the kubelet to judge it", got)
	}
	dying := []seen{pod("s", standsFor("a"), big), pod("w", withheld, big, deleted)}
	if got := later(t, 0, picture{pods: dying, node: node(), synced: true}); got != "release w" {
		t.Errorf("deleted in the cluster: %q, expected the kubelet to take it away", got)
	}
	set := of("StatefulSet", "db")
	same := []seen{pod("s", set, standsFor("db-0")), pod("db-0", set, withheld)}
	if got := later(t, 0, picture{pods: same, node: node(), synced: true}); got != "retire s" {
		t.Errorf("of a StatefulSet: %q, expected never two of one identity", got)
	}
	two := []seen{pod("s", standsFor("a"), big), pod("t", standsFor("b"), big), pod("v", withheld, big), pod("w", withheld, big)}
	if got := later(t, 0, picture{pods: two, node: node(), synced: true}); got != "adopt t+v, retire s, retire t" {
		t.Errorf("two for two: %q", got)
	}
}

func TestWithholdIsForWhatASuccessorMayDisplace(t *testing.T) {
	set := of("StatefulSet", "db")
	for name, c := range map[string]struct {
		comes, kept seen
		want        bool
	}{
		"its stand-in":            {pod("b"), pod("s", standsFor("a")), true},
		"another owner's":         {pod("b", of("ReplicaSet", "x")), pod("s", standsFor("a")), false},
		"one that has ended":      {pod("b"), pod("s", standsFor("a"), evicted), false},
		"its own name":            {pod("db-0", set), pod("s", set, standsFor("db-0")), true},
		"another of its set":      {pod("db-1", set), pod("s", set, standsFor("db-0")), false},
		"it was held and is back": {pod("a"), pod("a", held), false},
	} {
		if got := Withhold(c.comes.Pod, []*corev1.Pod{c.kept.Pod}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFencedPodsEndAndComeBack(t *testing.T) {
	yes := annotated(Fence, "true")
	running, other := pod("a", yes), pod("b", annotated(Fence, "false"))
	if got := later(t, 0, picture{pods: []seen{running, other}, node: node(), fencing: true}); got != "withhold a" {
		t.Errorf("cut off: %q", got)
	}
	if got := later(t, 0, picture{pods: []seen{pod("a", yes, withheld), other}, node: node(), fencing: true}); got != "" {
		t.Errorf("still cut off: %q", got)
	}
	if got := later(t, 0, picture{pods: []seen{pod("a", yes, withheld), other}, node: node(), synced: true}); got != "release a" {
		t.Errorf("heard again: %q", got)
	}
}

// What a fence withheld, and has a successor by the time the cloud is heard, does not come back: two of one identity would run.
func TestWhatWasFencedDoesNotComeBackBesideItsSuccessor(t *testing.T) {
	set, yes := of("StatefulSet", "db"), annotated(Fence, "true")
	pods := []seen{pod("s", set, yes, withheld, standsFor("db-0", "db-0-uid")), pod("db-0", set, yes, withheld, func(p *seen) { p.UID = "new" })}
	if got := later(t, 0, picture{pods: pods, node: node(), synced: true}); got != "discard s, release db-0" {
		t.Errorf("%q", got)
	}
	alone := []seen{pod("s", set, yes, withheld, standsFor("db-0", "db-0-uid"))}
	if got := later(t, 0, picture{pods: append(alone, pod("db-0", set, yes, evicted)), node: node(), synced: true}); got != "release s" {
		t.Errorf("alone: %q", got)
	}
	if got := later(t, 0, picture{pods: []seen{pod("m", yes, annotated(corev1.MirrorPodAnnotationKey, "x"))}, node: node(), fencing: true}); got != "" {
		t.Errorf("a static pod: %q, expected to leave it: it runs from a file", got)
	}
}

func TestNoStandInWhileItWouldBeFenced(t *testing.T) {
	j := newJudge()
	p := picture{pods: []seen{pod("a", evicted, annotated(Fence, "true"))}, node: node(), now: start, fencing: true}
	j.judge(p)
	p.now = start.Add(time.Hour)
	steps, _ := j.judge(p)
	if words(steps) != "" && words(steps) != "withhold a" {
		t.Errorf("%q", words(steps))
	}
}

// Nobody but the site has a held pod: once it has ended it goes, with what was kept for it.
func TestAHeldPodThatEndedGoes(t *testing.T) {
	if got := later(t, 0, picture{pods: []seen{pod("a", held, evicted)}, node: node(), synced: true}); got != "discard a" {
		t.Errorf("%q", got)
	}
}

func TestAStandInIsACopyOfItsOwn(t *testing.T) {
	original := pod("web-0", evicted, of("StatefulSet", "web"), annotated("team", "shop")).Pod
	original.Labels = map[string]string{"app": "web"}
	original.Finalizers = []string{"x"}
	original.Spec.Hostname = "web-0"
	original.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
	original.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	original.Status.QOSClass = corev1.PodQOSBurstable
	before := original.DeepCopy()
	got := standIn(original, "12345678-9abc", 3, []types.UID{"b", "a", "b"}, time.Unix(2000, 5))
	if !slices.Equal([]string{original.Name, string(original.UID), fmt.Sprint(original.Labels)}, []string{before.Name, string(before.UID), fmt.Sprint(before.Labels)}) {
		t.Error("the original was changed")
	}
	switch {
	case got.Name != "web-0-stand-in-12345", got.UID != "12345678-9abc", got.Labels["app"] != "web", got.Annotations["team"] != "shop",
		got.Annotations[StandInFor] != "web-0", got.Annotations[StandInForUID] != "web-0-uid", attemptOf(got) != 3,
		!slices.Equal(peersOf(got), []types.UID{"a", "b"}):
		t.Errorf("metadata %+v", got.ObjectMeta)
	case len(got.Finalizers) > 0, got.CreationTimestamp.Unix() != 2000:
		t.Errorf("metadata %+v", got.ObjectMeta)
	case got.Spec.Hostname != "web-0", len(got.Spec.EphemeralContainers) > 0, got.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "web-0-scratch":
		t.Errorf("spec %+v", got.Spec)
	case got.Status.Phase != corev1.PodPending, got.Status.QOSClass != corev1.PodQOSBurstable, got.Status.Reason != "":
		t.Errorf("status %+v", got.Status)
	}
	original.Name = strings.Repeat("n", 62)
	if got := standIn(original, "abcdef", 1, nil, start); len(got.Name) > maxName {
		t.Errorf("name %q of %d characters", got.Name, len(got.Name))
	}
}
