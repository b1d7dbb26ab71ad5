package drill

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// aPod is a pod that runs one container, named app.
func aPod(name string, change ...func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)}, Status: corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://1"}}}}
	for _, f := range change {
		f(&p)
	}
	return p
}

func unready(p *corev1.Pod)   { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func leaving(p *corev1.Pod)   { p.DeletionTimestamp = new(metav1.Time) }
func failed(p *corev1.Pod)    { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted"; unready(p) }
func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded; unready(p) }
func restarted(p *corev1.Pod) {
	p.Status.ContainerStatuses[0].ContainerID, p.Status.ContainerStatuses[0].RestartCount = "containerd://2", 1
}
func remade(p *corev1.Pod)  { p.Status.ContainerStatuses[0].ContainerID = "containerd://2" }
func waiting(p *corev1.Pod) { p.Status.ContainerStatuses[0].ContainerID = "" }

// ended is the note of a drill of which nothing is to be said but what happened to the pods.
func ended() note { return note{Delivered: time.Second, End: endDeadline} }

func TestWhatBreaksAndWhatIsNoMoreThanAChange(t *testing.T) {
	type looks [][]corev1.Pod
	one := func(change ...func(*corev1.Pod)) []corev1.Pod { return []corev1.Pod{aPod("web", change...)} }
	for name, c := range map[string]struct {
		looks          looks
		back           bool // the last look is after the cut
		changes, broke []string
	}{
		"nothing happens":                {looks: looks{one(), one(), one()}},
		"a container is restarted":       {looks: looks{one(), one(restarted)}, changes: []string{"was restarted: its restart count was 0 and is 1"}, broke: []string{"container app of pod shop/web was restarted"}},
		"a container is made anew":       {looks: looks{one(), one(remade)}, changes: []string{"was restarted"}, broke: []string{"was restarted"}},
		"a restart seen in two steps":    {looks: looks{one(), one(waiting), one(restarted)}, changes: []string{"was restarted"}, broke: []string{"was restarted"}},
		"a pod is not Ready for long":    {looks: looks{one(), one(unready), one(unready), one(unready), one()}, changes: []string{"is not Ready", "Ready again after 15s"}, broke: []string{"was not Ready for 15s"}},
		"a pod flickers":                 {looks: looks{one(), one(unready), one()}, changes: []string{"is not Ready", "Ready again after 5s"}},
		"a pod is not Ready in the end":  {looks: looks{one(), one(unready)}, changes: []string{"is not Ready"}, broke: []string{"pod shop/web is not Ready since 2030-06-01 12:00:05 UTC"}},
		"a pod fails":                    {looks: looks{one(), one(failed)}, changes: []string{"has ended: Failed Evicted"}, broke: []string{"has ended: Failed Evicted"}},
		"a pod succeeds":                 {looks: looks{one(), one(succeeded), one(succeeded)}, changes: []string{"has ended: Succeeded"}},
		"a pod vanishes":                 {looks: looks{one(), {}}, changes: []string{"is gone"}, broke: []string{"pod shop/web is gone"}},
		"a pod vanishes with its grace":  {looks: looks{one(), one(leaving), {}}, changes: []string{"is being deleted", "is gone"}},
		"the cloud takes a pod later":    {looks: looks{one(), {}}, back: true, changes: []string{"is gone"}},
		"a pod is new":                   {looks: looks{{}, one(unready), one(), one(restarted)}, changes: []string{"is new", "is Ready", "was restarted"}},
		"a pod that was not well":        {looks: looks{one(unready), one(unready, restarted), {}}, changes: []string{"was restarted", "is gone"}},
		"a pod that had ended":           {looks: looks{one(failed), one(failed), {}}},
		"another of the same name":       {looks: looks{one(), one(func(p *corev1.Pod) { p.UID = "other" })}, changes: []string{"is new", "is gone"}, broke: []string{"is gone"}},
		"a look that has no containers":  {looks: looks{one(func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), one()}},
		"a pod recovers before it ends":  {looks: looks{one(), one(unready), one(), one(unready), one()}, changes: []string{"is not Ready", "again after 5s", "is not Ready", "again after 5s"}},
		"a pod that leaves is not Ready": {looks: looks{one(), one(leaving), one(leaving, unready)}, changes: []string{"is being deleted", "is not Ready"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecord(0)
			for i, pods := range c.looks {
				r.look(at(time.Duration(i)*5*time.Second), pods, !c.back || i < len(c.looks)-1)
				// What is on the disk is as good.
				again := newRecord(0)
				if err := json.Unmarshal(encode(r), again); err != nil {
					t.Fatal(err)
				}
				r = again
			}
			got := r.report(ended(), ending{})
			var changes []string
			for _, c := range got.Changes {
				changes = append(changes, c.What)
			}
			match := func(what string, got, want []string) {
				if len(got) != len(want) || slices.ContainsFunc(want, func(w string) bool {
					return !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) })
				}) {
					t.Errorf("%s %q, expected %q", what, got, want)
				}
			}
			match("changes", changes, c.changes)
			match("broke", got.Broke, c.broke)
		})
	}
}

func TestALookSaysWhetherThereIsNews(t *testing.T) {
	r := newRecord(0)
	for i, want := range []bool{true, false, true, false} {
		var change []func(*corev1.Pod)
		if i > 1 {
			change = append(change, restarted)
		}
		if got := r.look(at(0), []corev1.Pod{aPod("web", change...)}, true); got != want {
			t.Errorf("look %d says %v, expected %v", i, got, want)
		}
	}
}

func TestTheRestOfAReportIsJudgedToo(t *testing.T) {
	looked := func() *record {
		r := newRecord(5)
		r.look(at(0), []corev1.Pod{aPod("web"), aPod("db")}, true)
		r.Reads = 10
		return r
	}
	power := func(n *note) { n.Order.Power, n.Powered = true, true }
	for want, c := range map[string]struct {
		note   func(*note)
		record func(*record)
		ending ending
	}{
		"": {ending: ending{lost: 5}},
		"edgecore started 1 times during the cut, expected 0":    {record: func(r *record) { r.Starts = 1 }},
		"edgecore started 2 times during the cut, expected 1":    {note: power, record: func(r *record) { r.Starts = 2 }},
		"no answer to 3 of 10 reads":                             {record: func(r *record) { r.Unanswered = 3 }},
		"2 messages for the cloud were dropped":                  {ending: ending{lost: 7}},
		"the kubelet does not run: it is delayed":                {ending: ending{kubelet: "delayed"}},
		"what waited for the cloud was not delivered within 5m0": {note: func(n *note) { n.Delivered = 0 }},
		"edgecore was not killed as ordered":                     {note: func(n *note) { n.Order.Power = true }},
		"the pods could not be read":                             {record: func(r *record) { *r = *newRecord(5) }},
	} {
		n, r := ended(), looked()
		if c.note != nil {
			c.note(&n)
		}
		if c.record != nil {
			c.record(r)
		}
		got := r.report(n, c.ending)
		if want == "" {
			if len(got.Broke) != 0 || got.Pods != 2 || got.Containers != 2 || got.Reads != 10 {
				t.Errorf("nothing happened: %+v", got)
			}
		} else if len(got.Broke) != 1 || !strings.Contains(got.Broke[0], want) {
			t.Errorf("broke %q, expected %q alone", got.Broke, want)
		}
	}
	n := ended()
	power(&n)
	r := looked()
	r.Starts = 1
	if got := r.report(n, ending{}); len(got.Broke) != 0 {
		t.Errorf("one start after the power cut that was ordered: broke %q", got.Broke)
	}
}

func TestARecordIsBounded(t *testing.T) {
	r := newRecord(0)
	for i := range 3 * maxChanges {
		r.look(at(0), []corev1.Pod{aPod(fmt.Sprint("web-", i))}, true)
	}
	if len(r.Changes) != maxChanges || r.MoreChanges == 0 {
		t.Errorf("%d changes and %d more, expected %d and the rest counted", len(r.Changes), r.MoreChanges, maxChanges)
	}
}
