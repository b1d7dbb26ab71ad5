package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// withholding is a store that withholds pods named so, and what it was asked.
func withholding(t *testing.T, cfg Config, name string) (s *Store, stop func(), asked *[]int) {
	asked = new([]int)
	s, stop = running(t, cfg, Deps{Withhold: func(p *corev1.Pod, kept []*corev1.Pod) bool {
		*asked = append(*asked, len(kept))
		return p.Name == name
	}})
	return s, stop, asked
}

// A pod that comes while the site keeps others is judged before any watcher sees it, and stays as it was judged.
func TestAPodIsWithheldFromTheBeginning(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop, asked := withholding(t, cfg, "new")
	s.mustBatch(t, upsert(t, object.Pods, pod("new", "u0", 4)))
	if s.mustGet(t, podKey("new")).Withheld || len(*asked) != 0 {
		t.Errorf("asked %v: there was nothing that the site keeps", *asked)
	}
	s.mustBatch(t, gone(podKey("new"), object.CauseDeleted), upsert(t, object.Pods, pod("lost", "u1", 5)), gone(podKey("lost"), object.CauseNodeGone))
	own := &object.Record{Key: podKey("own"), Version: object.Version{UID: "u2"}, Origin: object.FromEdge, Body: encode(t, object.Pods, pod("own", "u2", 0))}
	s.mustApply(t, object.Change{Record: own})
	_, rv, err := s.List(t.Context(), object.Pods, "")
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), object.Pods, rv)
	if err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, upsert(t, object.Pods, pod("other", "u3", 6)), upsert(t, object.Pods, pod("new", "u4", 7)))
	if (<-events).Record.Withheld {
		t.Error("the other pod is withheld")
	}
	if e := <-events; e.Record.Key != podKey("new") || !e.Record.Withheld {
		t.Errorf("event %+v, expected a withheld pod", e.Record)
	}
	if want := []int{2, 2}; len(*asked) != 2 || (*asked)[0] != want[0] || (*asked)[1] != want[1] {
		t.Errorf("asked with %v kept pods, expected %v", *asked, want)
	}
	// Another version of the same pod, and a restart, change nothing.
	labelled := pod("new", "u4", 8)
	labelled.Labels = map[string]string{"a": "b"}
	s.mustBatch(t, upsert(t, object.Pods, labelled))
	stop()
	s, _, _ = withholding(t, cfg, "")
	r := s.mustGet(t, podKey("new"))
	if !r.Withheld || r.Held || r.Version.RV != 8 {
		t.Errorf("after a restart %+v", r)
	}
	if r := s.mustGet(t, podKey("lost")); !r.Held || r.Withheld {
		t.Errorf("the held pod is %+v", r)
	}
}

// The cloud has a withheld pod like any other, so it counts; a held one does not, withheld or not.
func TestDigestsCountWhatIsWithheld(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)), upsert(t, object.Pods, pod("b", "u2", 6)), gone(podKey("b"), object.CauseNodeGone))
	before, err := s.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		next := *s.mustGet(t, podKey(name))
		next.Withheld = true
		s.mustApply(t, object.Change{Expect: next.LocalRV, Record: &next})
	}
	after, err := s.Digests(t.Context())
	if err != nil || after[object.Pods] != before[object.Pods] {
		t.Errorf("digest %v, expected %v as before; %v", after[object.Pods], before[object.Pods], err)
	}
	if r := s.mustGet(t, podKey("b")); !r.Held || !r.Withheld {
		t.Errorf("%+v, expected both marks", r)
	}
}

// The mark alone is news to watchers: the kubelet is to see the pod go.
func TestWithholdingWakesWatchers(t *testing.T) {
	s := newStore(t)
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	r := s.mustGet(t, podKey("a"))
	events, err := s.Watch(t.Context(), object.Pods, r.LocalRV)
	if err != nil {
		t.Fatal(err)
	}
	next := *r
	next.Withheld = true
	s.mustApply(t, object.Change{Expect: r.LocalRV, Record: &next})
	e := <-events
	if e.Type != object.Modified || !e.Record.Withheld || e.Previous == nil || e.Previous.Withheld || e.Record.LocalRV <= r.LocalRV {
		t.Errorf("event %v: %+v after %+v", e.Type, e.Record, e.Previous)
	}
}
