package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/twin"
)

// withPump is a world whose node has the device p.
func withPump(t *testing.T, setpoint string) *world {
	t.Helper()
	s := newFakeStore()
	s.put(t, object.DeviceModels, pumpModel(), "")
	s.put(t, object.Devices, pump("p", setpoint), "")
	return newWorld(t, s)
}

func TestWhatADeviceReportsGoesToTheCloud(t *testing.T) {
	w := withPump(t, "45")
	first, ok := w.store.status(t, "p")
	if !ok || first.condition("Reported").Status != metav1.ConditionFalse || first.condition("MapperConnected").Reason != "NoMapper" {
		t.Errorf("the first status is %+v, expected one that waits for a mapper and a report", first)
	}
	if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "45", "flow", "1.5")); err != nil {
		t.Fatal(err)
	}
	got, _ := w.store.status(t, "p")
	if got.value("setpoint") != "45" || got.value("flow") != "1.5" || got.condition("Reported").Status != metav1.ConditionTrue || got.UID != "uid-p" {
		t.Errorf("the status is %+v", got)
	}
	if at := got.Twins[0].Reported.Metadata["timestamp"]; at != "1000000" {
		t.Errorf("the value arrived at %q, expected 1000000", at)
	}
	if n := len(w.store.queued); n != 1 {
		t.Errorf("%d writes wait, expected the newest", n)
	}
	w.store.sent()
	keeps := w.store.keeps
	if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "45")); err != nil {
		t.Fatal(err)
	}
	if w.store.sent() != 0 || w.store.keeps != keeps {
		t.Error("the same value again costs the cloud or the disk something")
	}
	if c := w.ear.last(); c.Current["setpoint"].Reported.Value != "45" {
		t.Errorf("and is not told: %+v", c)
	}
}

func TestMappersShowInTheStatus(t *testing.T) {
	w := withPump(t, "")
	want := func(step string, status metav1.ConditionStatus, reason string) {
		t.Helper()
		r, ok := w.store.status(t, "p")
		if c := r.condition("MapperConnected"); !ok || c.Status != status || c.Reason != reason {
			t.Errorf("%s: %v %+v, expected %s for %s", step, ok, c, status, reason)
		}
		w.store.sent()
	}
	want("at first", metav1.ConditionFalse, "NoMapper")
	w.engine.Connected(t.Context(), "virtual", true)
	want("a mapper is there", metav1.ConditionTrue, "Connected")
	w.engine.Connected(t.Context(), "virtual", true)
	w.engine.Connected(t.Context(), "modbus", true)
	if n := w.store.sent(); n != 0 {
		t.Errorf("%d writes for no news", n)
	}
	w.engine.Told(t.Context(), "ns", "p", errors.New("no such serial port"))
	want("it refuses the device", metav1.ConditionFalse, "MapperRefuses")
	w.engine.Told(t.Context(), "ns", "p", nil)
	want("it took the device", metav1.ConditionTrue, "Connected")
	w.engine.Connected(t.Context(), "virtual", false)
	want("it is away", metav1.ConditionFalse, "MapperAway")
	for _, state := range []string{"online", "online", "offline", "unknown"} {
		if _, err := w.engine.SetState(t.Context(), "ns", "p", state); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.now = w.now.Add(time.Minute)
		w.mu.Unlock()
	}
	// Until it was said to be offline it was online.
	if r, _ := w.store.status(t, "p"); r.State != "unknown" || r.LastOnlineTime != "1970-01-01T00:18:40Z" {
		t.Errorf("state %q, last online %q", r.State, r.LastOnlineTime)
	}
	if _, err := w.engine.SetState(t.Context(), "ns", "p", "dancing"); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown state: %v", err)
	}
}

func TestTheNodeTellsHowItsDevicesAre(t *testing.T) {
	w := withPump(t, "45")
	w.engine.Connected(t.Context(), "virtual", true)
	if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "44")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.engine.SetState(t.Context(), "ns", "p", "online"); err != nil {
		t.Fatal(err)
	}
	s, ok := w.engine.Status("ns", "p")
	if !ok || s.Namespace != "ns" || s.Name != "p" || s.OwnerReferences[0].UID != "uid-p" || s.Status.State != "online" || s.Status.LastOnlineTime == "" {
		t.Fatalf("the status is %+v", s)
	}
	if twin := s.Status.Twins[0]; twin.PropertyName != "setpoint" || twin.ObservedDesired != nil || twin.Reported.Value != "44" {
		t.Errorf("the twin is %+v, and nobody has seen what is desired", twin)
	}
	if twin := w.engine.Twins("ns", "p")[0]; twin.PropertyName != "setpoint" || twin.ObservedDesired.Value != "45" || twin.Reported.Value != "44" {
		t.Errorf("the twin is %+v now", twin)
	}
	if all := w.engine.Twins("ns", "nobody"); all != nil {
		t.Errorf("nobody has %+v", all)
	}
	for kind, want := range map[string]string{v1beta1.ConditionReady: "True Fits", v1beta1.ConditionMapperConnected: "True Connected", v1beta1.ConditionReported: "False Pending"} {
		if c := meta.FindStatusCondition(s.Status.Conditions, kind); c == nil || string(c.Status)+" "+c.Reason != want {
			t.Errorf("%s is %+v, expected %s", kind, c, want)
		}
	}
	for namespace, want := range map[string]int{"": 1, "ns": 1, "other": 0} {
		if all := w.engine.Statuses(namespace); len(all) != want {
			t.Errorf("namespace %q has %d, expected %d", namespace, len(all), want)
		}
	}
	if _, ok := w.engine.Status("other", "p"); ok {
		t.Error("another namespace's device is told")
	}
	w.store.remove(object.DeviceModels, "pump")
	w.eventually("the missing model to show", func() error {
		s, _ := w.engine.Status("ns", "p")
		if c := meta.FindStatusCondition(s.Status.Conditions, v1beta1.ConditionReady); c.Status != metav1.ConditionFalse || c.Reason != "ModelNotFound" {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

func TestTheCloudsChangeReplacesTheEdgesDesireAndSaysSo(t *testing.T) {
	w := withPump(t, "45")
	err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "50"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.settled("p", func(v View) bool { return v.Device.Spec.Properties[0].Desired.Value == "50" })
	w.store.put(t, object.Devices, pump("p", "60"), "")
	w.settled("p", func(v View) bool { return v.Device.Spec.Properties[0].Desired.Value == "60" })
	if all := w.store.events(); len(all) != 1 || !strings.Contains(all[0], "DesireReplaced") || !strings.Contains(all[0], `"50"`) {
		t.Errorf("events %q, expected one that names 50", all)
	}
}

func TestWhatCannotBeIsRefusedWhole(t *testing.T) {
	w := withPump(t, "")
	want := func(v string) *v1beta1.TwinProperty { return &v1beta1.TwinProperty{Value: v} }
	for name, c := range map[string]struct {
		updates map[string]twin.Update
		err     error
	}{
		"no name":             {map[string]twin.Update{"": {Reported: want("1")}}, ErrInvalid},
		"a long name":         {map[string]twin.Update{strings.Repeat("x", 300): {Reported: want("1")}}, ErrInvalid},
		"a mistyped value":    {map[string]twin.Update{"setpoint": {Reported: want("warm")}, "other": {Reported: want("1")}}, ErrInvalid},
		"read-only":           {map[string]twin.Update{"flow": {Desired: want("1")}}, ErrInvalid},
		"no number":           {map[string]twin.Update{"setpoint": {Desired: want("warm")}, "other": {Reported: want("1")}}, ErrInvalid},
		"above the maximum":   {map[string]twin.Update{"setpoint": {Desired: want("101")}}, ErrInvalid},
		"metadata":            {map[string]twin.Update{"flow": {Reported: &v1beta1.TwinProperty{Value: "1", Metadata: map[string]string{"x": strings.Repeat("y", 5000)}}}}, ErrInvalid},
		"more than is stored": {map[string]twin.Update{"other": {Reported: want(strings.Repeat("1", v1beta1.MaxReportedBytes+1))}}, twin.ErrTooLong},
	} {
		if err := w.engine.Update(t.Context(), "ns", "p", c.updates); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, expected %v", name, err, c.err)
		}
	}
	if err := w.engine.Report(t.Context(), "other", "p", reported("flow", "1")); !errors.Is(err, ErrUnknown) {
		t.Errorf("a device of another namespace: %v", err)
	}
	v, _ := w.engine.Device("ns", "p")
	if v.Properties["other"] != nil || v.Properties["flow"].Reported != nil {
		t.Errorf("something of it was taken: %v", v.Properties)
	}
}

func TestWhatIsNotOnTheDiskNeverWas(t *testing.T) {
	w := withPump(t, "")
	w.store.fail(errors.New("the disk is full"))
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "1")); err == nil {
		t.Error("a report that is not kept is acknowledged")
	}
	if _, err := w.engine.SetState(t.Context(), "ns", "p", "online"); err == nil {
		t.Error("a state that is not kept is acknowledged")
	}
	v, _ := w.engine.Device("ns", "p")
	if v.Properties["flow"].Reported != nil || v.State != "" {
		t.Errorf("it is shown all the same: %+v", v)
	}
	w.store.fail(nil)
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "1")); err != nil {
		t.Error(err)
	}
}

// What a caller keeps beside a step is there with it or not at all, also where the step itself is not worth the disk's while.
func TestWhatIsKeptBesideAStepIsKeptWithIt(t *testing.T) {
	w := withPump(t, "45")
	beside := func(value string) Note { return Note{"mine", "k", []byte(value)} }
	kept := func() string {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		return w.store.notes["mine"]["k"]
	}
	w.store.fail(errors.New("the disk is full"))
	if err := w.engine.Desire(t.Context(), "ns", "p", "uid-p", "call", map[string]string{"setpoint": "45"}, beside("0")); err == nil || kept() != "" {
		t.Errorf("%v, kept %q", err, kept())
	}
	w.store.fail(nil)
	for i, c := range []struct {
		uid, value string
		want       error
	}{{"uid-p", "45", nil}, {"uid-p", "45", nil}, {"another", "50", ErrUnknown}, {"uid-p", "101", ErrInvalid}} {
		before, value := kept(), fmt.Sprint("call-", i)
		err := w.engine.Desire(t.Context(), "ns", "p", c.uid, value, map[string]string{"setpoint": c.value}, beside(value))
		if !errors.Is(err, c.want) || err == nil && kept() != value || err != nil && kept() != before {
			t.Errorf("desire %s of %s: %v, kept %q", c.value, c.uid, err, kept())
		}
	}
	v, _ := w.engine.Device("ns", "p")
	if got := v.Device.Spec.Properties[0].Desired; got.Value != "45" || got.Metadata[device.MetadataCall] != "call-1" || got.Metadata["timestamp"] == "" {
		t.Errorf("a mapper is told %+v", got)
	}
	if c := w.ear.last(); !c.Desired || c.Current["setpoint"].Desired().Call != "call-1" {
		t.Errorf("and heard of %+v", c)
	}
	for _, value := range []string{"first", "again"} { // the second report is nothing new
		if err := w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "45"), beside(value)); err != nil || kept() != value {
			t.Errorf("report: %v, kept %q, expected %q", err, kept(), value)
		}
	}
}

func TestWhatAskersSee(t *testing.T) {
	w := withPump(t, "45")
	a := pump("a", "1")
	a.Spec.Protocol = nil // it has its model's
	w.store.put(t, object.Devices, a, "")
	w.settled("a", func(View) bool { return true })
	if got := fmt.Sprint(w.engine.Names()); got != "[[ns a] [ns p]]" {
		t.Errorf("names %s", got)
	}
	for _, connected := range []bool{true, false} {
		w.engine.Connected(t.Context(), "virtual", connected)
		conditions, got := w.engine.Health("ns", "p")
		if got != connected || len(conditions) != 2 || conditions[1].Reason != "Pending" {
			t.Errorf("connected %v with %+v, expected %v", got, conditions, connected)
		}
		if protocol, status := w.engine.Mapper("ns", "a"); protocol != "virtual" || status != conditions[0].Status {
			t.Errorf("the mapper is %q, %q; expected the model's protocol and %q", protocol, status, conditions[0].Status)
		}
	}
	if protocol, status := w.engine.Mapper("ns", "nobody"); protocol != "" || status != "" {
		t.Errorf("the mapper of nobody is %q, %q", protocol, status)
	}
	if conditions, connected := w.engine.Health("ns", "nobody"); connected || conditions != nil {
		t.Errorf("of nobody: %v, %v", conditions, connected)
	}
}

func TestAfterARestartEverythingIsAsItWas(t *testing.T) {
	w := withPump(t, "45")
	err := errors.Join(w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "50"}}}),
		w.engine.Report(t.Context(), "ns", "p", reported("setpoint", "49", "flow", "2")))
	if err == nil {
		_, err = w.engine.SetState(t.Context(), "ns", "p", "online")
	}
	if err != nil {
		t.Fatal(err)
	}
	before, _ := w.engine.Device("ns", "p")
	w.stop()
	w.store.sent()
	w.store.loseTrack()
	again := newWorld(t, w.store)
	after, _ := again.engine.Device("ns", "p")
	for _, name := range []string{"setpoint", "flow"} {
		if b, a := fmt.Sprintf("%+v", *before.Properties[name].Reported), fmt.Sprintf("%+v", *after.Properties[name].Reported); a != b {
			t.Errorf("%s reported %s, it was %s", name, a, b)
		}
	}
	if after.Device.Spec.Properties[0].Desired.Value != "50" || after.State != "online" || !after.LastOnline.Equal(before.LastOnline) {
		t.Errorf("it is %+v", after)
	}
	if r, ok := w.store.status(t, "p"); !ok || r.value("flow") != "2" {
		t.Errorf("what the cloud may have missed is not said again: %v %+v", ok, r)
	}
}

// TestADeviceThatReportsFastCostsTheCloudLittle: its first report goes at once, and its last one soon after it came.
func TestADeviceThatReportsFastCostsTheCloudLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(t, object.DeviceModels, pumpModel(), "")
		s.put(t, object.Devices, pump("p", ""), "")
		w := newWorldWith(t, s, 100*time.Millisecond)
		time.Sleep(time.Second)
		s.sent()
		writes := 0
		for n := range 100 {
			if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
			if r, ok := s.status(t, "p"); n == 0 && (!ok || r.value("flow") != "0") {
				t.Error("the first report waits")
			}
			writes += s.sent()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if r, ok := s.status(t, "p"); !ok || r.value("flow") != "99" {
			t.Errorf("a pause after the last report its value is %q, %v", r.value("flow"), ok)
		}
		if writes += s.sent(); writes > 12 {
			t.Errorf("%d statuses for 100 reports in a second, expected one in 100 ms", writes)
		}
		// What is put off when the process ends is on the disk.
		for _, n := range []string{"1", "2"} {
			if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", n)); err != nil {
				t.Fatal(err)
			}
		}
		w.stop()
		s.sent()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.sent(); n > 0 {
			t.Error("an engine that has ended writes")
		}
		newWorldWith(t, s, 0)
		if r, _ := s.status(t, "p"); r.value("flow") != "2" {
			t.Errorf("after a restart the value is %q, expected 2", r.value("flow"))
		}
	})
}

func TestADeviceThatGoesIsForgotten(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	again := pump("p", "45")
	again.UID = "another"
	w.store.put(t, object.Devices, again, "")
	w.settled("p", func(v View) bool { return v.Device.UID == "another" && v.Properties["flow"].Reported == nil })
	w.store.remove(object.Devices, "p")
	w.eventually("the device to go", func() error {
		if _, ok := w.engine.Device("ns", "p"); ok {
			return errors.New("it is there")
		}
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		if n := len(w.store.notes[bucketTwins]) + len(w.store.notes[bucketStates]); n > 0 {
			return fmt.Errorf("%d notes are left", n)
		}
		return nil
	})
	w.ear.mu.Lock()
	defer w.ear.mu.Unlock()
	if want := []string{"+!p", "-p", "+!p", "-p"}; !slices.Equal(w.ear.placed, want) {
		t.Errorf("heard %v, expected %v", w.ear.placed, want)
	}
}

// TestNotesOfADeviceThatIsNotThereAreKeptUntilTheCloudWasHeard: a store that was made anew knows no devices yet.
func TestNotesOfADeviceThatIsNotThereAreKeptUntilTheCloudWasHeard(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	w.stop()
	s := newFakeStore()
	s.notes, s.unsynced = w.store.notes, true
	again := newWorld(t, s)
	s.put(t, object.DeviceModels, pumpModel(), "")
	s.put(t, object.Devices, pump("p", "45"), "")
	again.settled("p", func(v View) bool { return v.Properties["flow"].Reported != nil })
	again.stop()
	s = newFakeStore()
	s.notes = w.store.notes
	newWorld(t, s)
	if n := len(s.notes[bucketTwins]); n != 0 {
		t.Errorf("%d notes of a device that does not exist are left", n)
	}
}

func TestADeviceThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	w := withPump(t, "")
	w.store.put(t, object.Devices, pump("broken", ""), `{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"Device","spec":7}`)
	w.store.put(t, object.Devices, pump("q", "7"), "")
	w.settled("q", func(v View) bool { return v.Device.Spec.Properties[0].Desired.Value == "7" })
	w.store.put(t, object.Devices, pump("r", "8"), "")
	w.store.loseTrack()
	w.store.put(t, object.Devices, pump("s", "9"), "")
	w.settled("s", func(View) bool { return true })
}

func TestManyReportAtOnce(t *testing.T) {
	w := withPump(t, "")
	for i := range 8 {
		w.store.put(t, object.Devices, pump(fmt.Sprint("d", i), ""), "")
		w.settled(fmt.Sprint("d", i), func(View) bool { return true })
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				if err := w.engine.Report(context.Background(), "ns", fmt.Sprint("d", i), reported("flow", fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
				if n%10 == 0 {
					w.engine.Connected(context.Background(), "virtual", n%20 == 0)
				}
			}
		})
	}
	all.Wait()
	for i := range 8 {
		if r, ok := w.store.status(t, fmt.Sprint("d", i)); !ok || r.value("flow") != "49" {
			t.Errorf("device %d: %v, %q", i, ok, r.value("flow"))
		}
	}
}

// TestAStoreThatFailsAtTheStartCostsNoTwin: what was kept is waited for.
func TestAStoreThatFailsAtTheStartCostsNoTwin(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "50"}}, "flow": {Reported: &v1beta1.TwinProperty{Value: "2"}}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.store.loseTrack()
	w.store.refuse("notes", "list", "list")
	again := newWorld(t, w.store)
	again.settled("p", func(v View) bool {
		return v.Device.Spec.Properties[0].Desired.Value == "50" && v.Properties["flow"].Reported != nil
	})
}

// TestTheNotesOfAFormerDeviceHarmNobody: it was made anew while this edge was away.
func TestTheNotesOfAFormerDeviceHarmNobody(t *testing.T) {
	w := withPump(t, "45")
	if _, err := w.engine.SetState(t.Context(), "ns", "p", "online"); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Report(t.Context(), "ns", "p", reported("client", "7", "flow", "2")); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.store.loseTrack()
	another := pump("p", "10")
	another.UID = "another"
	w.store.put(t, object.Devices, another, "")
	again := newWorld(t, w.store)
	if v, _ := again.engine.Device("ns", "p"); v.State != "" || v.Properties["client"] != nil || v.Properties["flow"].Reported != nil {
		t.Errorf("it is what the former one was: %+v", v)
	}
	if err := again.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"setpoint": {Desired: &v1beta1.TwinProperty{Value: "42"}}}); err != nil {
		t.Fatal(err)
	}
	again.stop()
	w.store.loseTrack()
	last := newWorld(t, w.store)
	if v, _ := last.engine.Device("ns", "p"); v.Device.Spec.Properties[0].Desired.Value != "42" {
		t.Errorf("after a restart %q is desired, expected 42", v.Device.Spec.Properties[0].Desired.Value)
	}
	for key := range w.store.notes[bucketTwins] {
		if strings.Contains(key, "client") {
			t.Errorf("note %s of the former one is left", key)
		}
	}
}

// TestADeviceThatCannotBeReadKeepsItsTwin: a newer cloud may have written it.
func TestADeviceThatCannotBeReadKeepsItsTwin(t *testing.T) {
	w := withPump(t, "45")
	if err := w.engine.Report(t.Context(), "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.store.loseTrack()
	w.store.put(t, object.Devices, pump("p", ""), `{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"Device","spec":7}`)
	again := newWorld(t, w.store)
	w.store.put(t, object.Devices, pump("p", "45"), "")
	again.settled("p", func(v View) bool { return v.Properties["flow"].Reported != nil })
}

// TestACallerWhoGoesAwayLeavesNoHalf: the store goes on with what it was given, and so must the twin.
func TestACallerWhoGoesAwayLeavesNoHalf(t *testing.T) {
	w := withPump(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	w.store.mu.Lock()
	w.store.during = cancel
	w.store.mu.Unlock()
	if err := w.engine.Report(ctx, "ns", "p", reported("flow", "2")); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.engine.Device("ns", "p"); v.Properties["flow"].Reported == nil {
		t.Error("the disk has what the twin has not")
	}
}

// TestWhatTheCloudMayHaveLostIsSaidAgain: somebody deleted a DeviceStatus there, or a backup took its place.
func TestWhatTheCloudMayHaveLostIsSaidAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := withPump(t, "45")
		time.Sleep(time.Second)
		w.store.sent()
		time.Sleep(sayAgain / 2)
		synctest.Wait()
		if n := w.store.sent(); n > 0 {
			t.Errorf("%d statuses without news", n)
		}
		time.Sleep(sayAgain)
		synctest.Wait()
		if _, ok := w.store.status(t, "p"); !ok {
			t.Error("it is not said again")
		}
		if n := w.store.sent(); n != 1 {
			t.Errorf("%d statuses, expected one", n)
		}
		// Where there is reason to doubt, it is said at once, or at the end of the pause.
		w.engine.SayAgain()
		synctest.Wait()
		if n := w.store.sent(); n != 1 {
			t.Errorf("%d statuses after a doubt, expected one", n)
		}
		w.engine.cfg.Pause = time.Minute
		w.engine.SayAgain()
		synctest.Wait()
		w.engine.SayAgain()
		synctest.Wait()
		if n := w.store.sent(); n != 1 {
			t.Errorf("%d statuses after two doubts, expected one, and the other after the pause", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := w.store.sent(); n != 1 {
			t.Errorf("%d statuses after the pause, expected one", n)
		}
		w.stop()
	})
}

// TestAStatusThatIsTooLargeSaysSo: a client is refused before it comes to that.
func TestAStatusThatIsTooLargeSaysSo(t *testing.T) {
	w := withPump(t, "")
	big := strings.Repeat("\x01", 60<<10) // six bytes each in JSON
	many := map[string]twin.Update{}
	for i := range 3 {
		many[fmt.Sprint("x", i)] = twin.Update{Reported: &v1beta1.TwinProperty{Value: big[:20<<10]}, Desired: &v1beta1.TwinProperty{Value: big[:20<<10]}}
	}
	if err := w.engine.Update(t.Context(), "ns", "p", many); err != nil {
		t.Fatal(err)
	}
	names := map[string]twin.Update{}
	for i := range 900 {
		names[fmt.Sprintf("%0200d", i)] = twin.Update{Reported: &v1beta1.TwinProperty{Value: "1", Metadata: map[string]string{"x": big[:200]}}}
	}
	if err := w.engine.Update(t.Context(), "ns", "p", names); !errors.Is(err, twin.ErrTooLong) {
		t.Errorf("what no status can hold is taken: %v", err)
	}
	if r, ok := w.store.status(t, "p"); !ok || r.value("x2") == "" {
		t.Error("what was there before is not")
	}
}
