package horizon

import (
	"slices"
	"time"
)

// ReasonMended is the reason of the Event that says that a cause is gone.
const ReasonMended = "AutonomyMended"

// An Event is what is said at the Node when a cause comes or goes.
type Event struct {
	// Warning: it came.
	Warning         bool
	Reason, Message string
}

// announcements compares the causes that matter with those that were told, in the order of causes, and returns the Events and
// what is told then. Tokens are left out: short lives are what many of them are for.
func announcements(j *Judgement, told []Cause) (events []Event, now []Cause) {
	for _, a := range causes {
		known, said := slices.Contains(told, a.cause), Cause("")
		if known {
			said = a.cause
		}
		var mine []Limit
		for _, l := range j.present(said) {
			if l.Cause == a.cause && (!l.dated() || l.within(j.At, bar(j.AtLeast, known))) {
				mine = append(mine, l)
			}
		}
		there := len(mine) > 0 && a.effect != RefusedElsewhere && a.effect != AsAsked
		switch {
		case there && !known:
			events = append(events, Event{true, string(a.cause), cutTo(sentence(a.cause, mine), maxEvent)})
		case !there && known:
			events = append(events, Event{false, ReasonMended, string(a.cause) + " no longer shortens the time that the node can go on alone"})
		}
		if there {
			now = append(now, a.cause)
		}
	}
	return events, now
}

// maxEvent bounds an Event's message, in bytes: the API server takes 1024 in some of its APIs.
const maxEvent = 1000

// earliest returns the time to the first limit of a cause from now on; ok is false if there is none that is dated.
func (j *Judgement) earliest(cause Cause, now time.Time) (left time.Duration, ok bool) {
	for i := range j.Limits {
		if l := &j.Limits[i]; l.Cause == cause && l.dated() {
			if d := l.left(now); !ok || d < left {
				left, ok = d, true
			}
		}
	}
	return left, ok
}
