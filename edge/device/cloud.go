package device

import (
	"iter"
	"maps"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// What the cloud is shown of a device: nothing of what stays at the edge, and of what has a reportCycle one value a cycle. The first goes
// at once; what comes within the cycle waits for its end, and the newest of it goes then. What nobody bounds is not in these maps.

// A reporting is how much of a device the cloud is shown.
type reporting struct {
	properties map[string]device.Reporting
	state      device.Reporting
}

func reportingOf(d *v1beta1.Device) reporting {
	r := reporting{properties: map[string]device.Reporting{}, state: device.StateReporting(d)}
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if one := device.PropertyReporting(p); one != (device.Reporting{}) {
			r.properties[p.Name] = one
		}
	}
	return r
}

func (r reporting) equal(o reporting) bool {
	return r.state == o.state && maps.Equal(r.properties, o.properties)
}

// A showing is what the cloud was shown last of something that has a cycle, and when that is over.
type showing[T any] struct {
	value T
	until time.Time
}

// reported is what the cloud is shown that a property has: what it was shown last, until the cycle is over. Called with d.mu held.
func (d *entry) reported(name string, p *twin.Property, now time.Time) *twin.Value {
	if s, ok := d.shown[name]; ok && now.Before(s.until) && text(s.value) != text(p.Reported) {
		return s.value
	}
	return p.Reported
}

// text is a value to compare; nothing differs from the empty text.
func text(v *twin.Value) (t struct {
	there bool
	text  string
}) {
	if v != nil {
		t.there, t.text = true, v.Value
	}
	return t
}

// lens shows properties as the cloud is shown them at a time. Called, and used, with d.mu held.
func (d *entry) lens(now time.Time) twin.Lens {
	return func(name string, p *twin.Property) *twin.Property {
		if d.reporting.properties[name].Kept {
			return nil
		}
		seen := *p
		seen.Reported = d.reported(name, p, now)
		if d.cramped && !p.Current() {
			seen.Observed = nil
		}
		return &seen
	}
}

// squeeze is what the cloud is shown at a time of the device's properties, and whether it can take it. What a client or mapper says was judged
// with what is true now. Where that leaves no room for values of a cycle that is not over, or for what was observed of desires that hold
// no more, they are not shown from here. Called with d.mu held.
func (d *entry) squeeze(now time.Time) (twins []v1beta1.Twin, fit bool) {
	d.cramped = false
	if twins = d.twin.Status(d.lens(now)); fits(twins) {
		return twins, true
	}
	d.cramped = true
	if twins = d.twin.Status(d.lens(now)); fits(twins) {
		return twins, true
	}
	d.shown = nil
	twins = d.twin.Status(d.lens(now))
	return twins, fits(twins)
}

// news reports whether a step changed what the cloud is shown at a time, and when it will have, if not; zero for never. Called with d.mu
// held.
func (d *entry) news(c twin.Changes, now time.Time) (news bool, later time.Time) {
	see := d.lens(now)
	for name, before := range c.Before {
		p := d.twin.Property(name)
		was, is := before, p
		if was != nil {
			was = see(name, was)
		}
		if is != nil {
			is = see(name, is)
		}
		switch {
		case was == nil && is == nil:
		case was == nil || is == nil || text(was.Reported) != text(is.Reported) || text(was.Observed) != text(is.Observed) || callOf(was.Observed) != callOf(is.Observed):
			news = true
		case text(is.Reported) != text(p.Reported):
			later = earlier(later, d.shown[name].until)
		}
	}
	return news, later
}

func callOf(v *twin.Value) string {
	if v == nil {
		return ""
	}
	return v.Call
}

// earlier is the earlier of two times of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// stateShown is what the cloud is shown at a time of the device's state, and when that will be another; zero for not before it changes.
// Called with d.mu held.
func (d *entry) stateShown(now time.Time) (s stateNote, later time.Time) {
	switch last := d.shownState; {
	case d.reporting.state.Kept:
		return stateNote{}, time.Time{}
	case now.Before(last.until) && last.value.State != d.state.State:
		return last.value, last.until
	}
	return d.state, time.Time{}
}

// showed notes that the cloud is shown the device as it is at a time, and returns when there will be more to show of what is there;
// zero for never. Called with d.mu held.
func (d *entry) showed(now time.Time) (later time.Time) {
	for name, p := range d.cycling() {
		last := d.shown[name]
		switch v := d.reported(name, p, now); {
		case text(v) != text(p.Reported):
			later = earlier(later, last.until)
		case text(last.value) != text(v):
			if d.shown == nil {
				d.shown = map[string]showing[*twin.Value]{}
			}
			d.shown[name] = showing[*twin.Value]{v, now.Add(d.reporting.properties[name].Cycle)}
		}
	}
	s, until := d.stateShown(now)
	if r := d.reporting.state; r.Cycle > 0 && until.IsZero() && d.stateBehind() {
		d.shownState = showing[stateNote]{s, now.Add(r.Cycle)}
	}
	return earlier(later, until)
}

// cycling are the properties with a cycle that the cloud is shown. Called with d.mu held.
func (d *entry) cycling() iter.Seq2[string, *twin.Property] {
	return func(yield func(string, *twin.Property) bool) {
		for name, r := range d.reporting.properties {
			if p := d.twin.Property(name); p != nil && !r.Kept && r.Cycle > 0 && !yield(name, p) {
				return
			}
		}
	}
}

// behind reports whether of something with a cycle the cloud is shown another value at a time than last. Called with d.mu held.
func (d *entry) behind(now time.Time) bool {
	for name, p := range d.cycling() {
		if text(d.shown[name].value) != text(d.reported(name, p, now)) {
			return true
		}
	}
	_, held := d.stateShown(now)
	return d.reporting.state.Cycle > 0 && held.IsZero() && d.stateBehind()
}

// stateBehind reports whether the state is news for the cloud, if not now. Called with d.mu held.
func (d *entry) stateBehind() bool {
	r := d.reporting.state
	return !r.Kept && (r.Cycle == 0 || d.state.State != d.shownState.value.State)
}
