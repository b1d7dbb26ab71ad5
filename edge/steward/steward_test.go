package steward

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

func TestAStandInLivesFromTheEndOfOnePodToTheReadinessOfTheNext(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s, stop := w.run(Config{StandIns: true})
		defer stop()
		w.put(pod("a", evicted))
		pass(Patience + time.Minute)
		copied := w.pod("a-stand-in-")
		if copied.Pod == nil || copied.rec.Origin != object.FromEdge || copied.rec.Version.UID != string(copied.UID) || copied.Annotations[StandInFor] != "a" {
			t.Fatalf("stand-in %+v", copied)
		}
		if got := s.Summary(); !slices.Equal(got.StandIns, []string{"shop/" + copied.Name}) || len(got.Held) > 0 {
			t.Errorf("summary %+v", got)
		}
		w.connect(true)
		w.put(pod("a", evicted, delivered))
		w.put(pod("b", isReady))
		pass(time.Second)
		ends := w.pod(copied.Name)
		if ends.DeletionTimestamp == nil || *ends.DeletionGracePeriodSeconds != 30 || ends.Annotations[Retired] == "" {
			t.Fatalf("beside a ready successor: %+v", ends.ObjectMeta)
		}
		w.remove(copied.Name)
		pass(time.Hour)
		if left := w.pod("a-stand-in-"); left.Pod != nil {
			t.Errorf("stand-in %s", left.Name)
		}
		if w.count() > 0 {
			t.Errorf("notes %v: nobody wished anything", w.notes)
		}
		if want := []string{"StandIn a", "KeptPodRetired " + copied.Name}; !slices.Equal(w.events, want) {
			t.Errorf("events %v, expected %v", w.events, want)
		}
	})
}

func TestAStandInThatEndsIsFollowedByAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(Config{StandIns: true})
		defer stop()
		w.put(pod("a", evicted))
		pass(Patience + time.Minute)
		first := w.pod("a-stand-in-")
		first.Status.Phase = corev1.PodFailed
		w.put(seen{Pod: first.Pod, Local: true})
		pass(Patience)
		if again := w.pod("a-stand-in-"); again.Name != first.Name {
			t.Errorf("%s came at once", again.Name)
		}
		pass(patience(2))
		again := w.pod("a-stand-in-")
		if again.Pod == nil || again.Name == first.Name || attemptOf(again.Pod) != 2 || w.count() > 0 {
			t.Errorf("stand-in %+v, notes %v", again, w.notes)
		}
	})
}

// Somebody at the gateway who deletes a stand-in gets no other, nor after a restart.
func TestAStandInThatIsDeletedStaysAway(t *testing.T) {
	for name, end := range map[string]func(*world, stored, func()){
		"at once": func(w *world, s stored, stop func()) { w.remove(s.Name); pass(time.Second); stop() },
		"in its time, and the process ends first": func(w *world, s stored, stop func()) {
			stop()
			deleted(&seen{Pod: s.Pod})
			w.put(seen{Pod: s.Pod, Local: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				_, stop := w.run(Config{StandIns: true})
				w.put(pod("a", evicted))
				pass(Patience + time.Minute)
				end(w, w.pod("a-stand-in-"), stop)
				_, stop = w.run(Config{StandIns: true})
				defer stop()
				pass(time.Second)
				if p := w.pod("a-stand-in-"); p.Pod != nil {
					w.remove(p.Name)
				}
				pass(time.Hour)
				if p := w.pod("a-stand-in-"); p.Pod != nil {
					t.Errorf("stand-in %s", p.Name)
				}
				w.remove("a")
				pass(time.Minute)
				if w.count() > 0 {
					t.Errorf("notes %v of a pod that is gone", w.notes)
				}
			})
		})
	}
}

func TestNoStandInsWhereTheyAreSwitchedOff(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.run(Config{})
		defer stop()
		w.put(pod("a", evicted))
		w.put(pod("b", held))
		w.put(pod("c", isReady))
		pass(time.Hour)
		if p := w.pod("a-stand-in-"); p.Pod != nil {
			t.Errorf("stand-in %s", p.Name)
		}
		if p := w.pod("b"); p.DeletionTimestamp == nil {
			t.Error("a held pod with a ready successor runs on")
		}
	})
}

func TestASuccessorIsShownToTheKubeletAtLast(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.connect(true)
		_, stop := w.run(Config{StandIns: true})
		defer stop()
		w.put(pod("s", standsFor("a"), asks("1500m", 0)))
		w.put(pod("b", withheld, asks("1500m", 0)))
		pass(time.Minute)
		if s, b := w.pod("s"), w.pod("b"); s.DeletionTimestamp == nil || !b.rec.Withheld {
			t.Fatalf("stand-in %+v, successor withheld %v: expected the one to end first", s.ObjectMeta, b.rec.Withheld)
		}
		w.remove("s")
		pass(time.Second)
		if b := w.pod("b"); b.rec.Withheld {
			t.Error("the successor is not shown")
		}
	})
}

const fenceAfter = 10 * time.Minute

// fenced reports whether the pod that asks for it is kept from the kubelet.
func (w *world) fenced() bool { return w.pod("f").rec.Withheld }

func TestAFenceFallsInTimeAndRisesWithTheLink(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.connect(true)
		w.put(pod("f", annotated(Fence, "true")))
		w.put(pod("other"))
		s, stop := w.run(Config{FenceAfter: fenceAfter})
		defer stop()
		pass(time.Hour)
		w.connect(false)
		pass(fenceAfter - 5*time.Second)
		if w.fenced() {
			t.Error("too early")
		}
		pass(6 * time.Second)
		if !w.fenced() || w.pod("other").rec.Withheld || !slices.Equal(s.Summary().Fenced, []string{"shop/f"}) {
			t.Errorf("after fenceAfter: withheld %v, the other %v, summary %+v", w.fenced(), w.pod("other").rec.Withheld, s.Summary())
		}
		pass(time.Hour)
		w.mu.Lock()
		w.connected, w.syncing = true, true
		w.mu.Unlock()
		pass(time.Minute)
		if !w.fenced() {
			t.Error("released before it is known what the cloud has: it may have deleted the pod")
		}
		w.mu.Lock()
		w.syncing = false
		w.mu.Unlock()
		pass(5 * time.Second)
		if w.fenced() {
			t.Error("still withheld, though the cloud is heard")
		}
	})
}

// What is not known counts against the pod: it had rather not run than run twice.
func TestAFenceOutlivesTheProcessAndTheBoot(t *testing.T) {
	for name, c := range map[string]struct {
		between time.Duration // with nobody there
		reboot  bool
		heard   bool // was the cloud before
		want    bool
	}{
		"killed":                     {between: time.Minute, heard: true},
		"killed for long":            {between: fenceAfter, heard: true, want: true},
		"rebooted":                   {between: time.Minute, heard: true, reboot: true, want: true},
		"never heard in this boot":   {between: time.Minute, want: true},
		"rebooted after a long time": {between: 10 * fenceAfter, heard: true, reboot: true, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.put(pod("f", annotated(Fence, "true")))
				w.connect(c.heard)
				if c.heard {
					_, stop := w.run(Config{FenceAfter: fenceAfter})
					pass(3 * fenceAfter)
					stop()
				}
				w.connect(false)
				pass(c.between)
				if c.reboot {
					// Its uptime says nothing: it may be any.
					w.boot, w.booted = "second", time.Now().Add(-3*fenceAfter-time.Minute)
				}
				_, stop := w.run(Config{FenceAfter: fenceAfter})
				defer stop()
				if w.fenced() != c.want {
					t.Errorf("withheld %v when the kubelet may start, expected %v", w.fenced(), c.want)
				}
			})
		})
	}
}

func TestAFenceWritesLittleAndNothingForNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.connect(true)
		w.put(pod("other"))
		_, stop := w.run(Config{FenceAfter: fenceAfter})
		defer stop()
		pass(time.Hour)
		if w.count() > 0 {
			t.Errorf("notes %v", w.notes)
		}
		w.put(pod("f", annotated(Fence, "true")))
		pass(time.Second)
		first := w.noted(heardKey)
		if first == "" {
			t.Fatal("no note")
		}
		pass(fenceAfter/notes - 10*time.Second)
		if w.noted(heardKey) != first {
			t.Error("noted again too soon")
		}
		pass(20 * time.Second)
		if w.noted(heardKey) == first {
			t.Error("not noted again")
		}
	})
}

func TestAPodThatTheClusterHasAgainIsNotTouched(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s, stop := w.run(Config{})
		defer stop()
		w.put(pod("a"))
		err := s.take(t.Context(), step{verb: retire, pod: pod("a", held)})
		if err == nil || w.pod("a").DeletionTimestamp != nil {
			t.Errorf("%v: a pod of the cluster's was marked", err)
		}
		err = s.take(t.Context(), step{verb: withhold, pod: seen{Pod: &corev1.Pod{ObjectMeta: pod("a").ObjectMeta}}})
		if err != nil {
			t.Errorf("withhold: %v", err)
		}
		gone := pod("a")
		gone.UID = types.UID("another")
		if err := s.take(t.Context(), step{verb: withhold, pod: gone}); err == nil {
			t.Error("another pod of that name was withheld")
		}
	})
}

// What the kubelet reports is merged into what the cloud sent last: the steward's marks are in both.
func TestMarksOfAHeldPodOutliveAReport(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s, stop := w.run(Config{})
		defer stop()
		w.put(pod("a", held))
		r := w.pod("a").rec
		next := *r
		next.Base = r.Body
		if _, err := w.Apply(t.Context(), object.Change{Expect: r.LocalRV, Record: &next}); err != nil {
			t.Fatal(err)
		}
		if err := s.take(t.Context(), step{verb: adopt, pod: pod("a", held), peers: []types.UID{"b"}}); err != nil {
			t.Fatal(err)
		}
		after := w.pod("a")
		base, err := podOf(&object.Record{Key: after.rec.Key, Body: after.rec.Base})
		if err != nil || !slices.Equal(peersOf(base), []types.UID{"b"}) || !slices.Equal(peersOf(after.Pod), []types.UID{"b"}) {
			t.Errorf("base %v, body %v, %v", base.Annotations, after.Annotations, err)
		}
	})
}

func TestWhatIsKeptIsShownWithEachChange(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.unshown = 2
		_, stop := w.run(Config{})
		defer stop()
		pass(time.Minute)
		w.put(pod("a", held))
		pass(time.Minute)
		w.put(pod("b"))
		pass(time.Minute)
		w.remove("a")
		pass(time.Minute)
		var said []string
		for _, s := range w.shown {
			said = append(said, strings.Join(s.Held, ","))
		}
		if !slices.Equal(said, []string{"", "shop/a", ""}) {
			t.Errorf("shown %q, expected nothing, the held pod and nothing", said)
		}
	})
}

// A held pod of a StatefulSet and its successor have one name: the store has the one row, and the runtime has the former still.
func TestAStatefulSetsPodWaitsForTheFormerOfItsName(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.connect(true)
		_, stop := w.run(Config{})
		defer stop()
		w.put(pod("db-0", withheld, of("StatefulSet", "db")))
		pass(time.Minute)
		if !w.pod("db-0").rec.Withheld {
			t.Error("shown though the runtime does not say what it runs")
		}
		w.runs(map[string][]types.UID{"shop/db-0": {"former"}, "shop/db-1": {"x"}})
		pass(time.Minute)
		if !w.pod("db-0").rec.Withheld {
			t.Error("shown beside the former")
		}
		w.runs(map[string][]types.UID{"shop/db-1": {"x"}})
		pass(5 * time.Second)
		if w.pod("db-0").rec.Withheld {
			t.Error("not shown, though the former is gone")
		}
	})
}
