package device

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
)

func TestADeviceHasAStatusThatItsNodeFills(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		s := w.status(t, "pump")
		if o := metav1.GetControllerOf(s); o == nil || o.UID != d.UID || o.Kind != "Device" || o.Name != "pump" {
			t.Errorf("the status is owned by %v", o)
		}
		for _, kind := range []string{"Ready", "MapperConnected", "Reported"} {
			if got := condition(s, kind); got != "Unknown AwaitingReport" {
				t.Errorf("before any report %s is %s", kind, got)
			}
		}
		say(t, all[0], "edge-1", d, "45")
		s = w.status(t, "pump")
		if got := condition(s, "Ready") + ", " + condition(s, "MapperConnected") + ", " + condition(s, "Reported"); got != "True Fits, True Registered, False Differs" {
			t.Errorf("the conditions are %s", got)
		}
		if value(s) != "45" || s.Status.State != "ok" || s.Status.LastOnlineTime != "2026-01-02T03:04:05Z" || s.Status.Twins[0].Reported.Metadata["timestamp"] != "1" {
			t.Errorf("the status holds %+v", s.Status)
		}
		// The next is all that is known: what it lacks is gone.
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), "", []byte(`{"uid":"`+string(d.UID)+`","state":"offline"}`)); outcome(r) != "200 true " {
			t.Errorf("got %v", r)
		}
		if s = w.status(t, "pump"); len(s.Status.Twins) > 0 || s.Status.State != "offline" || s.Status.LastOnlineTime != "" || condition(s, "Reported") != "absent" {
			t.Errorf("the status holds %+v", s.Status)
		}
	})
}

func TestReadySaysWhatIsWrong(t *testing.T) {
	for reason, c := range map[string]struct {
		status metav1.ConditionStatus
		change func(w *world, d *v1beta1.Device)
	}{
		ReasonNoNode:       {metav1.ConditionFalse, func(_ *world, d *v1beta1.Device) { d.Spec.NodeName = "" }},
		ReasonNodeNotFound: {metav1.ConditionFalse, func(w *world, _ *v1beta1.Device) { w.remove(object.Key{Kind: object.Nodes, Name: "edge-1"}) }},
		ReasonNotAnEdge:    {metav1.ConditionFalse, func(w *world, _ *v1beta1.Device) { w.put(newNode("edge-1", "", corev1.ConditionTrue)) }},
		ReasonNodeOffline: {metav1.ConditionUnknown, func(w *world, _ *v1beta1.Device) {
			w.put(newNode("edge-1", "tether://edge-1", corev1.ConditionUnknown))
		}},
		device.ReasonModelNotFound: {metav1.ConditionFalse, func(w *world, d *v1beta1.Device) {
			d.Spec.Protocol = &v1beta1.ProtocolConfig{ProtocolName: "modbus"}
			w.remove(keyOf(newModel("")))
		}},
		device.ReasonValueOutOfRange: {metav1.ConditionFalse, func(w *world, _ *v1beta1.Device) { w.put(newModel("44")) }},
		device.ReasonUnknownProperty: {metav1.ConditionFalse, func(_ *world, d *v1beta1.Device) { d.Spec.Properties[0].Name = "other" }},
	} {
		t.Run(reason, func(t *testing.T) {
			run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
				d := w.add(t, "pump", "edge-1")
				say(t, all[0], "edge-1", d, "45")
				before := w.status(t, "pump")
				time.Sleep(time.Hour)
				d.Generation = 2
				c.change(w, d)
				w.put(d)
				synctest.Wait()
				s := w.status(t, "pump")
				ready := s.Status.Conditions[indexOf(s.Status.Conditions, "Ready")]
				if ready.Reason != reason || ready.Status != c.status || ready.Message == "" || ready.ObservedGeneration != 2 || time.Since(ready.LastTransitionTime.Time) > time.Minute {
					t.Errorf("Ready is %+v", ready)
				}
				// What did not change keeps its time.
				mapper := func(s *v1beta1.DeviceStatus) time.Time {
					return s.Status.Conditions[indexOf(s.Status.Conditions, "MapperConnected")].LastTransitionTime.Time
				}
				if reason != ReasonNoNode && !mapper(s).Equal(mapper(before)) {
					t.Errorf("MapperConnected is said to have changed at %v", mapper(s))
				}
				time.Sleep(time.Hour)
				d.Generation = 3
				w.put(d)
				synctest.Wait()
				s = w.status(t, "pump")
				if again := s.Status.Conditions[indexOf(s.Status.Conditions, "Ready")]; again.ObservedGeneration != 3 || !again.LastTransitionTime.Equal(&ready.LastTransitionTime) {
					t.Errorf("an hour later Ready is %+v, was %+v", again, ready)
				}
			})
		})
	}
}

// A Node changes every few seconds.
func TestAPushThatIsNotSupportedYetIsSaidAsLongAsItIsThere(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		if got := condition(w.status(t, "pump"), "PushSupported"); got != "absent" {
			t.Errorf("without a push the condition is %s", got)
		}
		d.Spec.Properties[0].PushMethod = &v1beta1.PushMethod{DBMethod: &v1beta1.DBMethod{MySQL: &v1beta1.DBMethodMySQL{}}}
		w.put(d)
		synctest.Wait()
		s := w.status(t, "pump")
		if got := condition(s, "PushSupported") + ", " + condition(s, "Ready"); got != "False NotSupportedYet, True Fits" {
			t.Errorf("the conditions are %s", got)
		}
		d.Spec.Properties[0].PushMethod = nil
		w.put(d)
		synctest.Wait()
		if got := condition(w.status(t, "pump"), "PushSupported"); got != "absent" {
			t.Errorf("the condition stays %s", got)
		}
	})
}

func TestANodeIsNewsToItsDevicesWhenItComesOrGoes(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		other := w.add(t, "pipe", "edge-2")
		say(t, all[0], "edge-2", other, "45")
		for _, c := range []struct {
			node *corev1.Node
			want string
			news bool
		}{
			{newNode("edge-1", "tether://edge-1", corev1.ConditionTrue), "True Fits", false},
			{newNode("edge-1", "tether://edge-1", corev1.ConditionUnknown), "Unknown NodeOffline", true},
			{newNode("edge-1", "tether://edge-1", corev1.ConditionFalse), "Unknown NodeOffline", false},
			{newNode("edge-1", "tether://edge-1", corev1.ConditionTrue), "True Fits", true},
			{newNode("edge-3", "tether://edge-3", corev1.ConditionTrue), "True Fits", false},
		} {
			// What came before may be looked at once more, when its rate allows.
			time.Sleep(10 * time.Second) // of the fake clock
			synctest.Wait()
			w.mu.Lock()
			w.looks = 0
			w.mu.Unlock()
			w.put(c.node)
			eventually(t, c.want, func() bool { return condition(w.status(t, "pump"), "Ready") == c.want })
			w.mu.Lock()
			looks := w.looks
			w.mu.Unlock()
			if got := condition(w.status(t, "pump"), "Ready"); got != c.want || looks > 0 != c.news || condition(w.status(t, "pipe"), "Ready") != "True Fits" {
				t.Errorf("%s %s: Ready is %s after %d looks at devices, expected %s", c.node.Name, c.node.Status.Conditions[0].Status, got, looks, c.want)
			}
		}
	})
}

func TestAnotherReasonIsNoTransition(t *testing.T) {
	v := view{device: newDevice("pump", "edge-1"), model: newModel("44")}
	s, err := desire(v, nil, nil, testTime)
	if err != nil {
		t.Fatal(err)
	}
	v.model = nil
	again, err := desire(v, s, nil, testTime.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	was, is := s.Status.Conditions[indexOf(s.Status.Conditions, "Ready")], again.Status.Conditions[indexOf(again.Status.Conditions, "Ready")]
	if was.Reason == is.Reason || !is.LastTransitionTime.Equal(&was.LastTransitionTime) {
		t.Errorf("Ready was %v and is %v", was, is)
	}
}

// A node that is away and a device that is wrong: what there is to mend is said.
func TestWhatCanBeMendedIsSaidFirst(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, _ []*Controller) {
		w.put(newNode("edge-1", "tether://edge-1", corev1.ConditionUnknown))
		w.put(newModel("44"))
		w.add(t, "pump", "edge-1")
		if got := condition(w.status(t, "pump"), "Ready"); got != "False ValueOutOfRange" {
			t.Errorf("Ready is %s", got)
		}
	})
}

func TestAMovedDeviceIsTheNewNodes(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		move := func(node string) {
			d.Spec.NodeName = node
			w.put(d)
			synctest.Wait()
			s := w.status(t, "pump")
			if value(s) == "" || condition(s, "Ready") != "Unknown AwaitingReport" || condition(s, "MapperConnected") != "Unknown AwaitingReport" {
				t.Errorf("at its new node %s: %+v", node, s.Status)
			}
		}
		move("edge-2")
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("46")); outcome(r) != "403 true Forbidden" {
			t.Errorf("the old node's report is answered %v", r)
		}
		// Back again, without a word of the other: what was said before it left is of then.
		move("edge-1")
		move("edge-2")
		say(t, all[0], "edge-2", d, "47")
		if s := w.status(t, "pump"); value(s) != "47" || condition(s, "Ready") != "True Fits" {
			t.Errorf("the new node's report gives %+v", s.Status)
		}
	})
}

func TestAStatusIsOfThePresentDevice(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		old := w.status(t, "pump").UID
		w.remove(keyOf(d))
		again := w.add(t, "pump", "edge-1")
		s := w.status(t, "pump")
		if s.UID == old || metav1.GetControllerOf(s).UID != again.UID || value(s) != "" {
			t.Errorf("the status of an earlier device was not replaced: %+v", s)
		}
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("46")); outcome(r) != "409 true Conflict" {
			t.Errorf("a report for the earlier device is answered %v", r)
		}
		// Somebody deletes it.
		w.remove(keyOf(s))
		synctest.Wait()
		if again := w.status(t, "pump"); again.UID == s.UID {
			t.Error("it was not made again")
		}
		// One that is held by a finalizer, of an earlier device, stays until it is gone; nobody writes into it, or spins.
		held := w.status(t, "pump")
		held.OwnerReferences[0].UID, held.Finalizers, held.DeletionTimestamp = "earlier", []string{"example.com/x"}, new(metav1.Now())
		w.written()
		w.put(held)
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(again.UID), body("47")); outcome(r) != "409 false Conflict" {
			t.Errorf("a report meanwhile is answered %v", r)
		}
		if n, _ := w.written(); n > 0 {
			t.Errorf("%d writes", n)
		}
	})
}

// What others made, or keep in it, stays.
func TestAStatusOfNobodyIsAdopted(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		s := &v1beta1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: "pump", Labels: map[string]string{"site": "north"},
			Annotations: map[string]string{AnnotationNode: "edge-1", "note": "x"}}}
		s.Status.Twins = []v1beta1.Twin{{PropertyName: "setpoint", Reported: &v1beta1.TwinProperty{Value: "7"}}}
		s.Status.Conditions = []metav1.Condition{{Type: "Calibrated", Status: metav1.ConditionTrue, Reason: "Yes", LastTransitionTime: metav1.Now()}}
		w.put(s)
		d := w.add(t, "pump", "edge-1")
		got := w.status(t, "pump")
		if got.UID != s.UID || !ownedBy(got, d) || got.Labels["site"] != "north" || got.Annotations["note"] != "x" || value(got) != "7" || condition(got, "Calibrated") != "True Yes" {
			t.Errorf("adopted as %+v", got)
		}
		if condition(got, "Ready") != "Unknown AwaitingReport" {
			t.Errorf("a report from before is taken for the device's: %s", condition(got, "Ready"))
		}
		say(t, all[0], "edge-1", d, "45")
		if got = w.status(t, "pump"); got.Annotations["note"] != "x" || condition(got, "Calibrated") != "True Yes" {
			t.Errorf("a report took away what is others': %+v", got)
		}
	})
}

func TestOnlyItsNodeReports(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		for name, c := range map[string]struct {
			node, device, uid string
			want              string
		}{
			"another node":   {"edge-2", "pump", string(d.UID), "403 true Forbidden"},
			"no node":        {"", "pump", string(d.UID), "403 true Forbidden"},
			"no such device": {"edge-1", "pipe", string(d.UID), "404 true NotFound"},
			"another uid":    {"edge-1", "pump", "uid-0", "409 true Conflict"},
			"no uid":         {"edge-1", "pump", "", "400 true BadRequest"},
			"a path":         {"edge-1", "pump/../x", string(d.UID), "400 true BadRequest"},
		} {
			if r := all[0].Report(t.Context(), c.node, named(c.device), c.uid, body("1")); outcome(r) != c.want || r.Message == "" {
				t.Errorf("%s: got %v, expected %s", name, r, c.want)
			}
		}
		if n, _ := w.written(); n > 0 {
			t.Errorf("refused reports cost %d writes", n)
		}
		// A cache that is behind refuses nothing for good.
		w.stopCache()
		d.Spec.NodeName = "edge-2"
		w.put(d)
		if r := all[0].Report(t.Context(), "edge-2", named("pump"), string(d.UID), body("2")); outcome(r) != "409 false Conflict" || r.RetryAfterMs == 0 {
			t.Errorf("got %v", r)
		}
		// And a node that asks on and on is put off, while others are answered.
		last := ""
		for range 2 * lookupBurst {
			last = outcome(all[0].Report(t.Context(), "edge-3", named("pump"), string(d.UID), body("3")))
		}
		if r := all[0].Report(t.Context(), "edge-4", named("pump"), string(d.UID), body("3")); last != "429 false TooManyRequests" || outcome(r) != "403 true Forbidden" {
			t.Errorf("after %d reports a node hears %s, another one %v", 2*lookupBurst, last, r)
		}
		w.startCache()
		if r := all[0].Report(t.Context(), "edge-2", named("pump"), string(d.UID), body("2")); r.Code != http.StatusOK {
			t.Errorf("got %v", r)
		}
	})
}
