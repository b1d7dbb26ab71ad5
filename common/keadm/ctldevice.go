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

// device describes a device and its twin, as this node knows them.
func (g *gateway) device(ctx context.Context, d *description, namespace, name string, now time.Time) error {
	var object v1beta1.Device
	if err := g.ofDevice(ctx, "devices", namespace, name, &object); err != nil {
		return err
	}
	var status v1beta1.DeviceStatus
	if err := g.ofDevice(ctx, "devicestatuses", namespace, name, &status); err != nil {
		return err
	}
	d.device(&object, &status, now)
	return g.events(ctx, d, &object, v1beta1.DeviceKind, now)
}

// ofDevice asks for an object that belongs to a device.
func (g *gateway) ofDevice(ctx context.Context, resource, namespace, name string, into any) error {
	path := []string{"/apis", v1beta1.GroupVersion.Group, v1beta1.GroupVersion.Version, "namespaces", namespace, resource, name}
	b, err := raw(ctx, g.client.Discovery().RESTClient().Get().AbsPath(path...).SetHeader("Accept", "application/json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("expected an object of %s: %w", resource, err)
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
	for _, t := range s.Status.Twins {
		rows = append(rows, []string{t.PropertyName, valueText(t.ObservedDesired), valueText(t.Reported), reportedAge(t.Reported, now)})
	}
	d.say(0, "Twins", fmt.Sprint(len(s.Status.Twins)))
	if len(s.Status.Twins) > 0 {
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
