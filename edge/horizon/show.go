package horizon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// Unbounded is the annotation where nothing is known that ends the horizon. Else it is RFC 3339 in UTC: a moment that is past
	// if something has ended already.
	Unbounded = "unbounded"

	// ReasonEnough is the condition's reason while it is True, ReasonUnread while it is Unknown; else it is a Cause.
	ReasonEnough = "LongEnough"
	ReasonUnread = "NotKnown"
)

// Shown is what the Node shows.
type Shown struct {
	Status          corev1.ConditionStatus
	Reason, Message string
	// Until is the annotation.
	Until string
}

const (
	// restless is the least time between two changes of the annotation alone.
	restless = 6 * time.Hour
	// unreadFor is how long a part may go unread before that is shown.
	unreadFor = 10 * time.Minute
	// maxMessage bounds a condition's message, in bytes.
	maxMessage = 2 << 10
)

// bar is what there has to be of time or of bytes: an eighth more where it was too little, so that what is near does not come and go.
func bar[T time.Duration | int64](need T, short bool) T {
	if short {
		return need + need/8
	}
	return need
}

// show returns what the Node is to show of a judgement, where it shows before; quiet is the time since the annotation last
// changed. It returns before itself if nothing material changed.
func show(j *Judgement, before Shown, quiet time.Duration) Shown {
	next := Shown{Status: corev1.ConditionTrue, Reason: ReasonEnough, Message: fmt.Sprintf("the node can go on alone for at least %s", span(j.AtLeast)), Until: before.Until}
	need := bar(j.AtLeast, before.Status == corev1.ConditionFalse)
	if near := j.near(need, Cause(before.Reason)); len(near) > 0 {
		next.Status, next.Reason, next.Message = corev1.ConditionFalse, string(near[0].Cause), message(near)
	}
	changed := next.Status != before.Status || next.Reason != before.Reason
	// What has ended was to end later: who reads the annotation alone must not be told of a time that is still to come.
	passed := j.Now && before.Until != j.stamp(before.Until)
	if changed || passed || quiet >= restless && moved(j, before.Until) {
		next.Until = j.stamp(before.Until)
	}
	return next
}

// unknown is what the Node shows while it cannot be judged.
func unknown(unread []string, before Shown) Shown {
	return Shown{Status: corev1.ConditionUnknown, Reason: ReasonUnread, Message: cutTo("cannot be judged: "+strings.Join(unread, "; "), maxMessage), Until: before.Until}
}

// near are the limits that end the horizon before d has passed. Those of the cause that is shown go late.
func (j *Judgement) near(d time.Duration, shown Cause) (near []Limit) {
	for _, l := range j.present(shown) {
		if l.Effect.ends() && l.within(j.At, d) {
			near = append(near, l)
		}
	}
	return near
}

// present are the limits, and what lingers of the cause that was said.
func (j *Judgement) present(said Cause) []Limit {
	all := slices.Clone(j.Limits)
	for _, l := range j.lingering {
		if l.Cause == said {
			all = append(all, l)
		}
	}
	return all
}

// message names the causes in the order of the limits.
func message(limits []Limit) string {
	var said []Cause
	var parts []string
	for i := range limits {
		c := limits[i].Cause
		if slices.Contains(said, c) {
			continue
		}
		said = append(said, c)
		parts = append(parts, fmt.Sprintf("%s: %s", c, sentence(c, limits)))
	}
	return cutTo(strings.Join(parts, ". "), maxMessage)
}

// stamp writes the horizon coarsely: to the hour in the next three days, else to the day. before stays if it says the same
// of what has ended.
func (j *Judgement) stamp(before string) string {
	if j.Now {
		if t, err := time.Parse(time.RFC3339, before); err == nil && !t.After(j.At) {
			return before
		}
		return j.At.UTC().Truncate(time.Minute).Format(time.RFC3339)
	}
	if j.Until.IsZero() {
		return Unbounded
	}
	grain := 24 * time.Hour
	if j.Until.Sub(j.At) < 3*grain {
		grain = time.Hour
	}
	return j.Until.UTC().Truncate(grain).Format(time.RFC3339)
}

// moved reports whether the annotation is wrong by a quarter of the time that is left.
func moved(j *Judgement, shown string) bool {
	next := j.stamp(shown)
	was, err := time.Parse(time.RFC3339, shown)
	is, err2 := time.Parse(time.RFC3339, next)
	if err != nil || err2 != nil {
		return shown != next // unbounded is among them
	}
	left := max(time.Hour, min(was.Sub(j.At), is.Sub(j.At)))
	return is.Sub(was).Abs() > left/4
}

// span writes a time as people do.
func span(d time.Duration) string {
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}

// cutTo bounds a text.
func cutTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-3], "") + "..."
}
