package twins

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/twin"
)

// agree waits until cloud, edge and devices agree.
func (x *trial) agree(when string) {
	x.t.Helper()
	var found []string
	for deadline := time.Now().Add(*waitFlag); ; time.Sleep(50 * time.Millisecond) {
		if found = x.differences(); len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	x.t.Fatalf("%s, %s later, cloud, edge and devices do not agree:\n  %s", when, *waitFlag, strings.Join(found, "\n  "))
}

// statuses are the DeviceStatuses of the cluster, by name.
func (x *trial) statuses() map[string]*v1beta1.DeviceStatus {
	x.t.Helper()
	list, err := x.kind(x.namespace, v1beta1.DeviceStatusResource).List(x.t.Context(), metav1.ListOptions{})
	if err != nil {
		x.t.Fatal(err)
	}
	all := map[string]*v1beta1.DeviceStatus{}
	for _, u := range list.Items {
		s := &v1beta1.DeviceStatus{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, s); err != nil {
			x.t.Fatal(err)
		}
		all[s.Name] = s
	}
	return all
}

// differences says what does not agree. The cluster is asked once devices and edge do.
func (x *trial) differences() (found []string) {
	for _, i := range x.items {
		if i.client != nil {
			if unsaid := i.client.unsaid(); unsaid != "" {
				found = append(found, unsaid)
			}
		}
		v, ok := x.edge.view(i.name, x.namespace)
		switch {
		case !ok:
			found = append(found, i.name+" is not at the edge")
		case string(v.Device.UID) != i.uid:
			found = append(found, fmt.Sprintf("%s at the edge has uid %s, expected %s", i, v.Device.UID, i.uid))
		default:
			for _, property := range i.readable() {
				found = append(found, i.judge(property, v.Properties[property])...)
			}
		}
	}
	if len(found) > 0 {
		return found
	}
	statuses := x.statuses()
	for _, i := range x.items {
		v, ok := x.edge.view(i.name, x.namespace)
		if s := statuses[i.name]; s == nil || !ok {
			found = append(found, i.name+" has no DeviceStatus")
		} else {
			for _, property := range i.readable() {
				found = append(found, i.judgeStatus(property, v.Properties[property], s)...)
			}
			found = append(found, i.judgeConditions(s)...)
		}
	}
	return found
}

// judge compares one property at the edge with the model and the device.
func (i *item) judge(property string, p *twin.Property) (found []string) {
	wrong := func(format string, args ...any) {
		found = append(found, fmt.Sprintf("%s %s: ", i, property)+fmt.Sprintf(format, args...))
	}
	if p == nil {
		wrong("the edge knows nothing of it")
		return found
	}
	has, want := i.thing.value(property), textOf(p.Desired())
	if w := i.wishes[property]; w != nil {
		if textOf(p.Cloud) != w.cloud {
			wrong("the edge has of the cloud %s, expected %s", textOf(p.Cloud), w.cloud)
		}
		if !w.may[want] {
			wrong("the edge desires %s, expected %s", want, w)
		}
	}
	if p.Desired() != nil && want != has {
		wrong("the edge desires %s, the device has %s", want, has)
	}
	if textOf(p.Reported) != has {
		wrong("the device has %s, the edge says %s", has, textOf(p.Reported))
	}
	return found
}

// judgeStatus compares one property in the cluster with the edge.
func (i *item) judgeStatus(property string, p *twin.Property, s *v1beta1.DeviceStatus) (found []string) {
	if p == nil {
		return []string{fmt.Sprintf("%s %s: the edge knows nothing of it", i, property)}
	}
	var shown v1beta1.Twin
	for _, t := range s.Status.Twins {
		if t.PropertyName == property {
			shown = t
		}
	}
	seen := textOf(p.Observed)
	if says := shownText(shown.ObservedDesired); seen != says {
		found = append(found, fmt.Sprintf("%s %s: %s was observed at the edge, the DeviceStatus says %s", i, property, seen, says))
	}
	if want := p.Desired(); i.client == nil && want != nil && want.Value != "" && want.Value != seen {
		found = append(found, fmt.Sprintf("%s %s: the edge desires %s, the mapper was given %s", i, property, want.Value, seen))
	}
	if has, says := textOf(p.Reported), shownText(shown.Reported); has != says {
		found = append(found, fmt.Sprintf("%s %s: the device has %s, the DeviceStatus says %s", i, property, has, says))
	}
	return found
}

func textOf(v *twin.Value) string {
	if v == nil {
		return "nothing"
	}
	return v.Value
}

func shownText(v *v1beta1.TwinProperty) string {
	if v == nil {
		return "nothing"
	}
	return v.Value
}

func (i *item) judgeConditions(s *v1beta1.DeviceStatus) (found []string) {
	want := map[string]string{"MapperConnected": "True Connected", "Ready": "True Fits", "Reported": "True AsDesired"}
	if i.client != nil {
		want["MapperConnected"] = "False NoMapper"
	} else if s.Status.State != "online" {
		found = append(found, fmt.Sprintf("%s is online, the DeviceStatus says %q", i, s.Status.State))
	}
	for _, c := range s.Status.Conditions {
		if has := string(c.Status) + " " + c.Reason; has != want[c.Type] {
			found = append(found, fmt.Sprintf("%s: condition %s is %s, expected %s", i, c.Type, has, want[c.Type]))
		}
		delete(want, c.Type)
	}
	if len(want) > 0 {
		found = append(found, fmt.Sprintf("%s: conditions %v are absent", i, want))
	}
	return found
}

// quiet starts CloudCore anew and makes the edge connect again: nothing is to be written. That all of it is over is known by a change of
// one device that arrives after it.
func (x *trial) quiet() {
	x.t.Helper()
	before := x.statuses()
	x.cloud.end()
	x.cloud.start()
	x.cloud.ready()
	eventually(x.t, "the link is up", *waitFlag, func() error {
		if s := x.edge.now().link.Status(); !s.Synced {
			return fmt.Errorf("it is not: %+v", s)
		}
		return nil
	})
	probe := x.items[0]
	probe.thing.turn("flow", x.values.next())
	x.agree("after a change of " + probe.name)
	for name, s := range x.statuses() {
		if name != probe.name && s.ResourceVersion != before[name].ResourceVersion {
			was, _ := json.Marshal(before[name].Status) // for people
			is, _ := json.Marshal(s.Status)
			x.t.Errorf("the DeviceStatus of %s was written though nothing changed:\n%s\n%s", name, was, is)
		}
	}
}
