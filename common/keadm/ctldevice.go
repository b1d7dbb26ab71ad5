package keadm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// device returns a device and its twin, as this node knows them.
func (g *gateway) device(ctx context.Context, namespace, name string) (*v1beta1.Device, *v1beta1.DeviceStatus, error) {
	path := []string{"/apis", v1beta1.GroupVersion.Group, v1beta1.GroupVersion.Version, "namespaces", namespace}
	object, status := &v1beta1.Device{}, &v1beta1.DeviceStatus{}
	if err := g.readInto(ctx, object, "", append(path, "devices", name)...); err != nil {
		return nil, nil, err
	}
	if err := g.readInto(ctx, status, "", append(path, "devicestatuses", name)...); err != nil {
		return nil, nil, err
	}
	return object, status, nil
}

// readInto asks for a path, with a label selector unless that is empty.
func (g *gateway) readInto(ctx context.Context, into any, labels string, path ...string) error {
	r := g.client.Discovery().RESTClient().Get().AbsPath(path...).SetHeader("Accept", "application/json")
	if labels != "" {
		r = r.Param("labelSelector", labels)
	}
	b, err := raw(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("expected an answer for %s: %w", strings.Join(path, "/"), err)
	}
	return nil
}

func (d *description) device(o *v1beta1.Device, s *v1beta1.DeviceStatus, now time.Time) {
	d.say(0, "Name", o.Name)
	d.say(0, "Namespace", o.Namespace)
	d.say(0, "Created", when(o.CreationTimestamp, now))
	d.pairs("Labels", o.Labels)
	model, protocol := "", ""
	if o.Spec.DeviceModelRef != nil {
		model = o.Spec.DeviceModelRef.Name
	}
	if o.Spec.Protocol != nil {
		protocol = o.Spec.Protocol.ProtocolName
	}
	d.say(0, "Model", cmp.Or(model, "<none>"))
	d.say(0, "Protocol", cmp.Or(protocol, "the model's"))
	mapper := "not known"
	if c := meta.FindStatusCondition(s.Status.Conditions, v1beta1.ConditionMapperConnected); c != nil {
		mapper = map[bool]string{true: "connected", false: "not connected, " + told(c.Reason, c.Message)}[c.Status == "True"]
	}
	d.say(0, "Mapper", mapper)
	d.say(0, "State", cmp.Or(s.Status.State, "<none>"))
	d.say(0, "Last Online", cmp.Or(s.Status.LastOnlineTime, "<none>"))
	rows := [][]string{{"Type", "Status", "Reason"}}
	for _, c := range s.Status.Conditions {
		rows = append(rows, []string{c.Type, string(c.Status), told(c.Reason, c.Message)})
	}
	d.say(0, "Conditions", "")
	d.table(rows)
	rows = [][]string{{"Property", "Desired", "Reported", "Age"}}
	twins := s.Status.Twins
	if o.Status != nil { // at the gateway it has what is desired now, whether the mapper has seen it or not
		twins = nil
		for _, t := range o.Status.Twins {
			twins = append(twins, v1beta1.Twin(t))
		}
	}
	for _, t := range twins {
		rows = append(rows, []string{t.PropertyName, valueText(t.ObservedDesired), valueText(t.Reported), reportedAge(t.Reported, now)})
	}
	d.say(0, "Twins", fmt.Sprint(len(twins)))
	if len(twins) > 0 {
		d.table(rows)
	}
	for i := range o.Spec.Methods {
		d.say(0, "Method", o.Spec.Methods[i].Name+"("+strings.Join(o.Spec.Methods[i].PropertyNames, ", ")+")")
	}
}

// valueWidth is how much of a value a line has room for, in bytes.
const valueWidth = 80

// valueText is a value on one line: what would move a terminal is written as Go writes it.
func valueText(v *v1beta1.TwinProperty) string {
	if v == nil {
		return "<none>"
	}
	text := strconv.Quote(v.Value)
	text = text[1 : len(text)-1]
	if len(text) > valueWidth {
		text = strings.ToValidUTF8(text[:valueWidth], "") + fmt.Sprintf("... (%d bytes)", len(v.Value))
	}
	return text
}

// reportedAge is the time since a value was reported. The edge notes it in milliseconds since 1970.
func reportedAge(v *v1beta1.TwinProperty, now time.Time) string {
	if v == nil {
		return "<none>"
	}
	at, err := strconv.ParseInt(v.Metadata["timestamp"], 10, 64)
	if err != nil {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(time.UnixMilli(at)))
}
