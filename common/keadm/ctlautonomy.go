package keadm

import (
	"fmt"
	"slices"
	"time"
)

// autonomyStatus is what is read of edge/horizon's Judgement: how long the node can go on alone.
type autonomyStatus struct {
	// Enough says whether that is as long as the configuration wants.
	Enough bool `json:"enough"`
	// Now says that something has ended already. Else the horizon is Until; zero if nothing is known that ends it.
	Now   bool      `json:"now,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Limits have those first that end the horizon.
	Limits []autonomyLimit `json:"limits"`
	Unread []string        `json:"unread,omitempty"`
}

// autonomyLimit is what is read of edge/horizon's Limit.
type autonomyLimit struct {
	Cause   string `json:"cause"`
	Effect  string `json:"effect"`
	Subject string `json:"subject"`
	// Neither Now nor Until: nobody can tell whether and when.
	Now    bool      `json:"now,omitempty"`
	Until  time.Time `json:"until,omitzero"`
	Detail string    `json:"detail,omitempty"`
	Advice string    `json:"advice"`
}

// effects are edge/horizon's, for people.
var effects = map[string]string{
	"stops-pods":        "stops pods",
	"cannot-return":     "the node cannot come back by itself",
	"loses-reports":     "events are lost",
	"as-asked":          "it ends as it asks to",
	"refused-elsewhere": "others may refuse it",
}

// describe is a line, and one more for each cause.
func (a *autonomyStatus) describe(now time.Time) []string {
	first := "nothing is known that ends it"
	switch {
	case a.Now:
		first = "has ended already: what is listed first does not go on alone"
	case !a.Until.IsZero():
		first = fmt.Sprintf("the node can go on alone until %s (%s left)", stamp(a.Until), span(max(0, a.Until.Sub(now))))
	}
	if !a.Enough && !a.Now {
		first += ", which is less than autonomy.atLeast"
	}
	lines := []string{first}
	var said []string
	for i := range a.Limits {
		if l := &a.Limits[i]; !slices.Contains(said, l.Cause) {
			said = append(said, l.Cause)
			lines = append(lines, a.cause(l, now))
		}
	}
	for _, u := range a.Unread {
		lines = append(lines, "not judged: "+u)
	}
	return lines
}

// cause tells of all limits of a cause, of which l comes first.
func (a *autonomyStatus) cause(l *autonomyLimit, now time.Time) string {
	var subjects []string
	for i := range a.Limits {
		if a.Limits[i].Cause == l.Cause {
			subjects = append(subjects, a.Limits[i].Subject)
		}
	}
	when := "at any time"
	if l.Now {
		when = "now"
	} else if !l.Until.IsZero() {
		when = fmt.Sprintf("%s (%s left)", stamp(l.Until), span(max(0, l.Until.Sub(now))))
	}
	effect := effects[l.Effect]
	if effect == "" {
		effect = l.Effect // of a newer edgecore
	}
	text := fmt.Sprintf("%s: %s: %s: %s", when, l.Cause, some(subjects), effect)
	if l.Detail != "" {
		text += "; " + l.Detail
	}
	return text + "; " + l.Advice
}
