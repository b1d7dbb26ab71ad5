package state_test

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
)

func device(name, node, model string) *v1beta1.Device {
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: v1beta1.DeviceSpec{NodeName: node}}
	if model != "" {
		d.Spec.DeviceModelRef = &v1beta1.ModelReference{Name: model}
	}
	return d
}

func model(name string) *v1beta1.DeviceModel {
	return &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

// seen are the devices and models that a node sees.
func seen(v *state.View) []string {
	var all []string
	for _, kind := range []object.ID{object.Devices, object.DeviceModels} {
		v.List(kind, func(k object.Key, _ object.Version) { all = append(all, k.Name) })
	}
	slices.Sort(all)
	return all
}

// TestANodeSeesItsDevicesAndTheirModels: those that name it and no others, a model for as long as one of them is of it; and
// a device that moves is gone from the one node for being elsewhere.
func TestANodeSeesItsDevicesAndTheirModels(t *testing.T) {
	cluster := statetest.New()
	for _, n := range []string{"a", "b"} {
		cluster.Put(node(n))
	}
	cluster.Put(model("pump"))
	cluster.Put(model("valve"))
	cluster.Put(model("unused"))
	pump1, _ := cluster.Put(device("pump-1", "a", "pump"))
	cluster.Put(device("pump-2", "a", "pump"))
	cluster.Put(device("valve-1", "b", "valve"))
	cluster.Put(device("nowhere", "", "pump"))
	w := synced(t, cluster, state.Config{})
	a, _ := w.subscribe("a")
	b, _ := w.subscribe("b")
	check := func(step string, v *state.View, want ...string) {
		t.Helper()
		w.caughtUp(v, object.Devices, object.DeviceModels)
		if got := seen(v); !slices.Equal(got, want) {
			t.Errorf("%s: node %s sees %v, expected %v", step, v.Node(), got, want)
		}
	}
	check("at first", a, "pump", "pump-1", "pump-2")
	check("at first", b, "valve", "valve-1")
	item, ok := a.Get(pump1)
	if !ok {
		t.Fatal("the device cannot be read")
	}
	uid := item.Version.UID

	cluster.Put(device("pump-1", "b", "pump"))
	check("after one moved", a, "pump", "pump-2")
	check("after one moved", b, "pump", "pump-1", "valve", "valve-1")
	if cause := a.Cause(pump1, uid, ""); cause != object.CauseOutOfInterest {
		t.Errorf("the cause on the node that it left is %v, expected CauseOutOfInterest", cause)
	}
	cluster.Put(device("pump-2", "a", "valve"))
	check("after the other one is of another model", a, "pump-2", "valve")
	cluster.Delete(pump1)
	check("after one was deleted", b, "valve", "valve-1")
	if cause := b.Cause(pump1, uid, ""); cause != object.CauseDeleted {
		t.Errorf("the cause of a deleted device is %v, expected CauseDeleted", cause)
	}
	cluster.Put(device("pump-2", "", "valve"))
	check("after it is nowhere", a)
	cluster.Put(device("late", "a", "later"))
	check("with a model that is not there", a, "late")
	cluster.Put(model("later"))
	check("once the model is there", a, "late", "later")
}

// TestStatusesOfDevicesAreSentToNobody: CloudCore watches them for itself.
func TestStatusesOfDevicesAreSentToNobody(t *testing.T) {
	cluster := statetest.New()
	cluster.Put(node("a"))
	cluster.Put(device("pump", "a", ""))
	status, _ := cluster.Put(&v1beta1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pump"}})
	w := synced(t, cluster, state.Config{})
	a, _ := w.subscribe("a")
	w.caughtUp(a)
	if _, ok := a.Get(status); ok || slices.Contains(a.Kinds(), object.DeviceStatuses) {
		t.Error("a node sees DeviceStatuses")
	}
	if !slices.Contains(w.cache.Kinds(), object.DeviceStatuses) {
		t.Error("CloudCore watches no DeviceStatuses")
	}
	if _, ok := w.cache.Object(status); !ok {
		t.Error("CloudCore's own cache lacks a DeviceStatus")
	}
}
