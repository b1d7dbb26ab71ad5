package twin

import (
	"maps"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// A Declared property is one that the Device names.
type Declared struct {
	Name    string
	Type    v1beta1.PropertyType
	Desired *v1beta1.TwinProperty
	// Check, if not nil, says why a value cannot be desired of the property. What clients desired before and is wrong now is lost: its
	// mapper would not be told of it, nor of what the Device desires.
	Check func(value string) error
}

// Declare takes what the Device says. Properties of the Device that it names no longer are removed, whatever they
// reported or clients desired of them; those that came from clients stay, as long as there is room for both.
func (t *Twin) Declare(all []Declared, at Stamp) Changes {
	s := t.step()
	s.declared = true
	named := map[string]bool{}
	for _, d := range all {
		if named[d.Name] {
			continue // the first one counts; common/device judges such a Device
		}
		named[d.Name] = true
		s.declare(d, at)
	}
	for _, name := range t.Names() {
		if p := t.properties[name]; p.Own && !named[name] {
			if p.Edge.text() != "" && p.Edge.Value != p.Cloud.text() {
				s.changes.Conflicts = append(s.changes.Conflicts, Conflict{Property: name, Lost: p.Edge.Value, Why: "the Device has no such property any more"})
			}
			s.remove(name)
		}
	}
	c, _ := s.done() // nothing that is declared is refused
	t.advance(at)
	return c
}

func (s *step) declare(d Declared, at Stamp) {
	before := s.t.properties[d.Name]
	var was Property
	if before != nil {
		was = *before
	}
	want := ""
	if d.Desired != nil {
		want = d.Desired.Value
	}
	changed := want != was.Cloud.text()
	if !changed && s.recheck(d, was.Edge, want) {
		was = *s.change(d.Name)
	}
	if before != nil && was.Own && was.Type == d.Type && !changed && sameMetadata(was.Cloud, d.Desired) {
		return
	}
	p := s.change(d.Name)
	s.changes.Trivial = false
	p.Own, p.Type = true, d.Type
	if !changed && p.Cloud != nil {
		p.Cloud.Metadata = metadataOf(d.Desired)
		return
	}
	if !changed {
		return
	}
	p.Cloud = nil
	if want != "" {
		p.Cloud = &Value{Value: want, Metadata: metadataOf(d.Desired), Stamp: at}
	}
	p.DesiredVersions.Cloud++
	if p.Edge != nil {
		// What a call desired as the cloud had it is not lost with the cloud's own change of mind.
		if p.Edge.Value != want && p.Edge.Value != was.Cloud.text() {
			s.changes.Conflicts = append(s.changes.Conflicts, Conflict{Property: d.Name, Lost: p.Edge.Value, Won: want})
		}
		p.Edge = nil
	}
	s.changes.Desired = s.changes.Desired || was.Desired().text() != want
}

// recheck lets go of what a client desired of a property, and reports whether it did, where that is wrong by now.
func (s *step) recheck(d Declared, edge *Value, want string) bool {
	if d.Check == nil || edge.text() == "" || edge.Value == want {
		return false
	}
	err := d.Check(edge.Value)
	if err == nil {
		return false
	}
	s.change(d.Name).Edge = nil
	s.changes.Conflicts = append(s.changes.Conflicts, Conflict{Property: d.Name, Lost: edge.Value, Won: want, Why: err.Error()})
	s.changes.Desired, s.changes.Trivial = true, false
	return true
}

func metadataOf(v *v1beta1.TwinProperty) map[string]string {
	if v == nil {
		return nil
	}
	return maps.Clone(v.Metadata)
}

func sameMetadata(v *Value, d *v1beta1.TwinProperty) bool {
	if v == nil || d == nil {
		return true // an empty desire has none
	}
	return maps.Equal(v.Metadata, d.Metadata)
}

// An Update is what a client says of a property. Nil parts are left as they are.
type Update struct {
	Desired, Reported *v1beta1.TwinProperty
	// Call, if not empty, names the method call that desires the value: it is desired anew, also where it was desired before.
	Call string
	// Observed, if not nil, is the desired value that the property's mapper has seen, empty for none. It counts where it is the one
	// that holds: what was on its way while that changed is old.
	Observed *string
	// Told: the client is told, by the answer, what is desired after the update.
	Told bool
	// Type is set where it is not empty and the Device does not name the property.
	Type v1beta1.PropertyType
	// Remove removes a property that the Device does not name, and the edge's desire and what was reported of one that it
	// does.
	Remove bool
}

// Apply takes what a client at the edge says: all of it, or none where it is beyond the limits.
func (t *Twin) Apply(updates map[string]Update, at Stamp) (Changes, error) {
	s := t.step()
	for name, u := range updates {
		if u.Remove {
			s.forget(name)
			continue
		}
		if u.Desired != nil {
			s.desire(name, u, at)
		}
		if u.Reported != nil {
			s.report(name, u.Reported, at)
		}
		if p := s.look(name); p != nil && (u.Told || u.Observed != nil && *u.Observed == p.Desired().text()) {
			s.observe(name)
		}
		if before := t.properties[name]; u.Type != "" && (before == nil || !before.Own && before.Type != u.Type) {
			s.change(name).Type = u.Type
			s.changes.Trivial = false
		}
	}
	c, err := s.done()
	if err == nil {
		t.advance(at)
	}
	return c, err
}

func (s *step) desire(name string, u Update, at Stamp) {
	v, p := u.Desired, s.change(name)
	s.changes.Trivial = false
	was := p.Desired().text()
	p.Edge = &Value{Value: v.Value, Metadata: maps.Clone(v.Metadata), Stamp: at, Call: u.Call}
	if v.Value == p.Cloud.text() && u.Call == "" {
		p.Edge = nil // as the cloud has it: there is nothing to lose
	}
	if v.Value != was || u.Call != "" {
		p.DesiredVersions.Edge++
		s.changes.Desired = true
	}
}

func (s *step) report(name string, v *v1beta1.TwinProperty, at Stamp) {
	p := s.change(name)
	if p.Reported == nil || p.Reported.Value != v.Value {
		p.ReportedVersions.Edge++
		s.changes.Reported, s.changes.Trivial = true, false
	}
	p.Reported = &Value{Value: v.Value, Metadata: maps.Clone(v.Metadata), Stamp: at}
}

// observe notes that the desired value which holds was seen.
func (s *step) observe(name string) {
	want, seen := s.look(name).Desired(), s.look(name).Observed
	if want.text() == "" {
		want = nil
	}
	if want == nil && seen == nil || want != nil && s.look(name).Current() {
		return
	}
	s.change(name).Observed = want.clone()
	s.changes.Trivial = false
}

func (s *step) forget(name string) {
	before := s.t.properties[name]
	if before == nil {
		return
	}
	if !before.Own {
		s.remove(name)
		return
	}
	p := s.change(name)
	s.changes.Trivial = false
	was := p.Desired().text()
	s.changes.Reported = s.changes.Reported || p.Reported != nil
	p.Edge, p.Reported, p.Observed = nil, nil, nil
	s.changes.Desired = s.changes.Desired || p.Desired().text() != was
}
