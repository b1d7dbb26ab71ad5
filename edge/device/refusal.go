package device

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// A refusal is why a device does not have what is desired of a property, as its mapper says it. It is not kept: a mapper says it
// again to an edge that restarted.
type refusal struct{ value, call, why string }

// refusals are what a mapper's report says of what was desired, by property; the zero refusal where it says nothing against it.
func refusals(twins []v1beta1.Twin) map[string]refusal {
	all := map[string]refusal{}
	for i := range twins {
		if o := twins[i].ObservedDesired; o != nil && o.Value != "" {
			all[twins[i].PropertyName] = refusal{o.Value, o.Metadata[device.MetadataCall], o.Metadata[device.MetadataError]}
		}
	}
	return all
}

// failed reports whether a mapper says of a property, in place of a value, that it cannot say what the device has, and why.
func failed(t *v1beta1.Twin) (why string, ok bool) {
	if t.Reported != nil || t.ObservedDesired == nil || t.ObservedDesired.Value != "" {
		return "", false
	}
	why = t.ObservedDesired.Metadata[device.MetadataError]
	return strings.ToValidUTF8(why[:min(len(why), shownRefusal)], ""), why != ""
}

// failures are why a mapper does not report what the device has, by property; empty for those that it reports. Like refusals they are
// not kept.
func failures(twins []v1beta1.Twin) map[string]string {
	all := map[string]string{}
	for i := range twins {
		if why, ok := failed(&twins[i]); ok || twins[i].Reported != nil {
			all[twins[i].PropertyName] = why
		}
	}
	return all
}

// hearFailures takes them. Called with mu held.
func (d *entry) hearFailures(said map[string]string) {
	for property, why := range said {
		if why == "" {
			delete(d.failures, property)
			continue
		}
		if d.failures == nil {
			d.failures = map[string]string{}
		}
		d.failures[property] = why
	}
}

// hear takes what a mapper says of what was desired. Called with mu held.
func (d *entry) hear(said map[string]refusal) {
	for property, r := range said {
		if r.why == "" || !utf8.ValidString(r.why) {
			delete(d.refusals, property)
			continue
		}
		if d.refusals == nil {
			d.refusals = map[string]refusal{}
		}
		d.refusals[property] = r
	}
}

// refused is why the device does not have what is desired of a property now; empty where nothing was said. Called with mu held.
func (d *entry) refused(property string, p *twin.Property) string {
	r, ok := d.refusals[property]
	want := p.Desired()
	if !ok || want == nil || want.Call != r.call || !device.Same(p.Type, want.Value, r.value) || !p.Differs() {
		return ""
	}
	return r.why
}

// shownRefusal is how much a condition says of one refusal, in bytes.
const shownRefusal = 256

// reportedCondition is the condition Reported, of properties as they are seen. What clients desire of properties that the Device does not
// name is between them and the device. Called with d.mu held.
func (d *entry) reportedCondition(see twin.Lens) condition {
	pending := d.twin.Pending(func(name string, p *twin.Property) *twin.Property {
		if !p.Own {
			return nil
		}
		if see != nil && !d.reporting.properties[name].Kept { // of what stays here it is said that it is as desired
			return see(name, p)
		}
		return p
	})
	c := condition{Type: v1beta1.ConditionReported, Status: "True", Reason: "AsDesired"}
	if len(pending) > 0 {
		c.Status, c.Reason, c.Message = "False", "Pending", d.pendingMessage(pending)
	}
	if text := d.failureMessage(); text != "" {
		c.Status, c.Reason = "False", "PropertyFailed"
		c.Message = strings.TrimPrefix(c.Message+"; "+text, "; ")
	}
	if text := d.refusalMessage(pending); text != "" {
		c.Reason = "Refused"
		c.Message += "; " + text
	}
	return c
}

func (d *entry) pendingMessage(pending []string) string {
	return fmt.Sprintf("%d properties have not reported what is desired: %s", len(pending), strings.Join(pending[:min(len(pending), shownPending)], ", "))
}

// failureMessage says of which properties of the Device the mapper does not say what they have, and why. Called with mu held.
func (d *entry) failureMessage() string {
	var said []string
	for i := range d.device.Spec.Properties {
		if len(d.failures) == 0 || len(said) > shownPending {
			break
		}
		name := d.device.Spec.Properties[i].Name
		if why, ok := d.failures[name]; ok {
			said = append(said, fmt.Sprintf("the mapper does not report %.80q: %s", name, why))
		}
	}
	return shownOf(said)
}

// refusalMessage says which of the pending properties the mapper says something of. Called with mu held.
func (d *entry) refusalMessage(pending []string) string {
	var said []string
	for _, name := range pending {
		if len(said) > shownPending {
			break
		}
		if why := d.refused(name, d.twin.Property(name)); why != "" {
			said = append(said, fmt.Sprintf("the mapper says of %.80q: %s", name, strings.ToValidUTF8(why[:min(len(why), shownRefusal)], "")))
		}
	}
	return shownOf(said)
}

// shownOf joins the first of what is said.
func shownOf(said []string) string {
	if len(said) > shownPending {
		return strings.Join(said[:shownPending], "; ") + "; and more"
	}
	return strings.Join(said, "; ")
}
