package twin

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// A Value is one of a property, as text, with what is known of it.
type Value struct {
	Value    string            `json:"value"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Stamp    Stamp             `json:"stamp,omitzero"`
	// Call names the method call that desires it; empty for none.
	Call string `json:"call,omitempty"`
}

func (v *Value) clone() *Value {
	if v == nil {
		return nil
	}
	c := *v
	c.Metadata = maps.Clone(v.Metadata)
	return &c
}

// text is the value, empty for none: an empty desired value desires nothing.
func (v *Value) text() string {
	if v == nil {
		return ""
	}
	return v.Value
}

// Versions count the changes of a value, by who made them. They only grow.
type Versions struct {
	Cloud int64 `json:"cloud"`
	Edge  int64 `json:"edge"`
}

// A Property is one of a device. Its zero value is a property that nothing is known of.
type Property struct {
	// Cloud is what the Device desires, Edge what a client at the edge desires instead; nil for nothing.
	Cloud *Value `json:"cloud,omitempty"`
	Edge  *Value `json:"edge,omitempty"`
	// Reported is what the device has, as it was said last.
	Reported *Value `json:"reported,omitempty"`
	// Observed is the desired value that the mapper or a client was told last; nil where none was told of any.
	Observed *Value `json:"observed,omitempty"`
	// DesiredVersions and ReportedVersions count.
	DesiredVersions  Versions `json:"desiredVersions,omitzero"`
	ReportedVersions Versions `json:"reportedVersions,omitzero"`
	// Type is the model's, or what a client said; empty for any.
	Type v1beta1.PropertyType `json:"type,omitempty"`
	// Own: the Device names it. Others came from clients.
	Own bool `json:"own,omitempty"`
}

// Desired is what holds; nil where nothing is desired.
func (p *Property) Desired() *Value {
	if p.Edge != nil {
		return p.Edge
	}
	return p.Cloud
}

// Current reports whether what was observed is what is desired.
func (p *Property) Current() bool {
	want := p.Desired()
	return want != nil && p.Observed != nil && want.Value == p.Observed.Value && want.Call == p.Observed.Call && maps.Equal(want.Metadata, p.Observed.Metadata)
}

// Differs reports whether the device has not reported what is desired of it.
func (p *Property) Differs() bool {
	want := p.Desired()
	if want.text() == "" {
		return false
	}
	return p.Reported == nil || !device.Same(p.Type, want.Value, p.Reported.Value)
}

func (p *Property) clone() *Property {
	c := *p
	c.Cloud, c.Edge, c.Reported, c.Observed = p.Cloud.clone(), p.Edge.clone(), p.Reported.clone(), p.Observed.clone()
	return &c
}

// A Twin is what is known of one device. It is changed by its methods only; each returns what it changed and leaves the
// receiver as it was where it returns an error. It is not safe for concurrent use.
type Twin struct {
	properties map[string]*Property
	last       Stamp
}

// New returns a Twin of properties that were stored. It owns them.
func New(properties map[string]*Property) *Twin {
	t := &Twin{properties: map[string]*Property{}}
	for name, p := range properties {
		t.properties[name] = p
		for _, v := range []*Value{p.Cloud, p.Edge, p.Reported} {
			if v != nil && v.Stamp.Compare(t.last) > 0 {
				t.last = v.Stamp
			}
		}
	}
	return t
}

// Last is the latest Stamp in it.
func (t *Twin) Last() Stamp { return t.last }

// Property returns a copy of a property; nil where nothing is known of it.
func (t *Twin) Property(name string) *Property {
	p := t.properties[name]
	if p == nil {
		return nil
	}
	return p.clone()
}

// Names returns the names of all properties, sorted.
func (t *Twin) Names() []string { return slices.Sorted(maps.Keys(t.properties)) }

// A Conflict is a desire of the edge that the cloud's took the place of, or what a client brought that had to make room.
type Conflict struct {
	Property, Lost, Won string
	// Why says for people what it was lost to, where that is not another value of the Device's.
	Why string
}

// Changes are what a step did.
type Changes struct {
	// Before holds each property that the step changed as it was before; nil where it was not there. What is not there any
	// more was removed.
	Before map[string]*Property
	// Desired, Reported: the effective value of some property changed, or a call desires it anew.
	Desired, Reported bool
	Conflicts         []Conflict
	// Trivial: values were reported or observed that were there already, and nothing else is new.
	Trivial bool
}

// Errors of the methods.
var (
	ErrTooMany = errors.New("too many properties")
	ErrTooLong = errors.New("the values are too long")
)

// step collects the changes of one step, on copies.
type step struct {
	t       *Twin
	next    map[string]*Property // nil: removed
	changes Changes
	// declared: the Device says it. What it says is taken, and clients' properties and desires make room for it.
	declared bool
}

// look returns a property as the step leaves it so far, not to be changed; nil where there is none.
func (s *step) look(name string) *Property {
	if p, ok := s.next[name]; ok {
		return p
	}
	return s.t.properties[name]
}

func (t *Twin) step() *step {
	return &step{t: t, next: map[string]*Property{}, changes: Changes{Before: map[string]*Property{}, Trivial: true}}
}

// change returns the copy of a property to change.
func (s *step) change(name string) *Property {
	if p, ok := s.next[name]; ok && p != nil {
		return p
	}
	p := &Property{}
	if before, ok := s.t.properties[name]; ok {
		p = before.clone()
		s.changes.Before[name] = before
	} else {
		s.changes.Before[name] = nil
	}
	s.next[name] = p
	return p
}

func (s *step) remove(name string) {
	if before, ok := s.t.properties[name]; ok {
		s.changes.Before[name] = before
		s.next[name] = nil
		s.changes.Trivial = false
		s.changes.Desired = s.changes.Desired || before.Desired() != nil
		s.changes.Reported = s.changes.Reported || before.Reported != nil
	}
}

// sizes of a twin after the step. Of a property counts the longest that is or was desired.
func (s *step) sizes() (count, desired, reported int) {
	add := func(p *Property) {
		count++
		desired += max(len(p.Cloud.text()), len(p.Edge.text()), len(p.Observed.text()))
		reported += len(p.Reported.text())
	}
	for name, p := range s.t.properties {
		if _, ok := s.next[name]; !ok {
			add(p)
		}
	}
	for _, p := range s.next {
		if p != nil {
			add(p)
		}
	}
	return count, desired, reported
}

// forgetOld forgets what was observed of desires that hold no more, where it leaves no room for those that do.
func (s *step) forgetOld() {
	if _, desired, _ := s.sizes(); desired <= v1beta1.MaxDesiredBytes {
		return
	}
	names := slices.Concat(s.t.Names(), slices.Collect(maps.Keys(s.next)))
	for _, name := range names {
		if p := s.look(name); p != nil && len(p.Observed.text()) > max(len(p.Cloud.text()), len(p.Edge.text())) {
			s.change(name).Observed = nil
			s.changes.Trivial = false
		}
	}
}

// makeRoom removes what clients brought, the last by name first, until what is declared fits.
func (s *step) makeRoom() {
	count, desired, _ := s.sizes()
	for _, name := range slices.Backward(s.t.Names()) {
		p, ok := s.next[name]
		if !ok {
			p = s.t.properties[name]
		}
		switch {
		case p == nil:
		case count > v1beta1.MaxProperties && !p.Own:
			s.lost(name, p)
			s.remove(name)
			count--
		case desired > v1beta1.MaxDesiredBytes && p.Edge != nil:
			s.lost(name, p)
			p = s.change(name)
			desired -= max(len(p.Cloud.text()), len(p.Edge.text())) - len(p.Cloud.text())
			p.Edge = nil
			if len(p.Observed.text()) > len(p.Cloud.text()) {
				p.Observed = nil
			}
			s.changes.Desired, s.changes.Trivial = true, false
		}
	}
}

// yield removes what clients reported by themselves, the last by name first, where it leaves no room for what is reported of the Device's
// own properties: a client that fills the twin must not silence the mapper.
func (s *step) yield() {
	own := false
	for _, p := range s.next {
		own = own || p != nil && p.Own
	}
	_, _, reported := s.sizes()
	if !own || reported <= v1beta1.MaxReportedBytes {
		return
	}
	for _, name := range slices.Backward(s.t.Names()) {
		p := s.t.properties[name]
		if _, touched := s.next[name]; touched || p.Own || p.Reported == nil {
			continue
		}
		s.lost(name, p)
		s.remove(name)
		if reported -= len(p.Reported.text()); reported <= v1beta1.MaxReportedBytes {
			return
		}
	}
}

// lost notes what a client desired or reported and is no more.
func (s *step) lost(name string, p *Property) {
	c := Conflict{Property: name, Won: p.Cloud.text(), Why: "the Device needs the room"}
	if c.Lost = p.Edge.text(); c.Lost == "" {
		c.Lost = p.Reported.text()
	}
	s.changes.Conflicts = append(s.changes.Conflicts, c)
}

// done makes the step's copies the truth, where they keep within the limits.
func (s *step) done() (Changes, error) {
	s.forgetOld()
	if s.declared {
		s.makeRoom()
		s.commit()
		return s.changes, nil
	}
	s.yield()
	count, desired, reported := s.sizes()
	switch {
	case count > v1beta1.MaxProperties:
		return Changes{}, fmt.Errorf("%w: expected at most %d, found %d", ErrTooMany, v1beta1.MaxProperties, count)
	case desired > v1beta1.MaxDesiredBytes:
		return Changes{}, fmt.Errorf("%w: expected at most %d bytes of desired values, found %d", ErrTooLong, v1beta1.MaxDesiredBytes, desired)
	case reported > v1beta1.MaxReportedBytes:
		return Changes{}, fmt.Errorf("%w: expected at most %d bytes of reported values, found %d", ErrTooLong, v1beta1.MaxReportedBytes, reported)
	}
	s.commit()
	return s.changes, nil
}

func (s *step) commit() {
	for name, p := range s.next {
		if p == nil {
			delete(s.t.properties, name)
		} else {
			s.t.properties[name] = p
		}
	}
}

func (t *Twin) advance(at Stamp) {
	if at.Compare(t.last) > 0 {
		t.last = at
	}
}

// Revert undoes a step whose Changes these are, where nothing was done since.
func (t *Twin) Revert(c Changes) {
	for name, before := range c.Before {
		if before == nil {
			delete(t.properties, name)
		} else {
			t.properties[name] = before
		}
	}
}
