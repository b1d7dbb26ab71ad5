package horizon

import (
	"slices"
	"time"
)

// An Effect is what a limit does when it is reached.
type Effect string

// The effects. The first two end the horizon.
const (
	StopsPods        Effect = "stops-pods"        // a pod stops, or does not start again
	CannotReturn     Effect = "cannot-return"     // the node comes back to the cluster with a person's help only
	LosesReports     Effect = "loses-reports"     // events for the cloud are dropped, oldest first; states are not
	AsAsked          Effect = "as-asked"          // a pod stops that is to stop there
	RefusedElsewhere Effect = "refused-elsewhere" // others, who check what a pod shows them, may refuse it
)

// ends reports whether the node's going on alone ends with it.
func (e Effect) ends() bool { return e == StopsPods || e == CannotReturn }

// A Cause is what a limit comes from: the reason of conditions and Events, and a label of metrics.
type Cause string

// The causes.
const (
	CertificateEnds Cause = "CertificateEnds"
	ImageMissing    Cause = "ImageMissing"
	ImageNotProven  Cause = "ImageNotProven"
	TokenMissing    Cause = "TokenMissing"
	DiskFills       Cause = "DiskFills"
	LogsCanFill     Cause = "LogsCanFill"
	StoreFills      Cause = "StoreFills"
	OutboxFills     Cause = "OutboxFills"
	TokenEnds       Cause = "TokenEnds"
	Fence           Cause = "Fence"
)

// about is what people are told of a cause.
type about struct {
	cause  Cause
	effect Effect
	// what follows the subjects in a sentence, advice is how to mend it.
	what, advice string
}

// causes are all, the gravest first.
var causes = []about{
	{ImageMissing, StopsPods, "is not here: its pod does not start again without a registry", "have the pod pull it while there is a link, or import it into the runtime"},
	{ImageNotProven, StopsPods, "is asked of its registry at each start, which has not given it to this pod's credentials: it does not serve offline",
		"mend the pull secret, have it pulled once, or set imagePullPolicy: IfNotPresent; images.fallBack has to be on"},
	{TokenMissing, StopsPods, "has no token stored: the pod does not start again without the cloud", "leave the link up until the pod runs"},
	{DiskFills, StopsPods, "fills up: the kubelet will evict pods", "free or add space, or find what grows"},
	{Fence, AsAsked, "ends after steward.fenceAfter without the cloud, as it asks for", "set a longer steward.fenceAfter, or take tether.io/fence off the pod"},
	{CertificateEnds, CannotReturn, "can no longer be exchanged for a new one after that: the node then has to join again with a token",
		"leave the link up for the renewal, or set a longer join.renewalGrace in CloudCore's configuration before the next one"},
	{LogsCanFill, StopsPods, "has too little space for all logs that its containers may keep: the kubelet may come to evict pods", "add space, or have the containers log less"},
	{StoreFills, LosesReports, "comes to the floor below which events are refused", "free space, or lower store.freeSpaceFloor"},
	{OutboxFills, LosesReports, "comes to its quota: then the oldest go", "raise store.eventQuota"},
	{TokenEnds, RefusedElsewhere, "has a token that ends: who checks it elsewhere refuses it then", "ask for a longer expirationSeconds where that matters"},
}

func (c Cause) about() about {
	return causes[slices.IndexFunc(causes, func(a about) bool { return a.cause == c })]
}

// A Limit is one thing that bounds how long the node can go on alone.
type Limit struct {
	Cause  Cause  `json:"cause"`
	Effect Effect `json:"effect"`
	// Subject is what it is about, as "pod shop/till, image h/till:v1".
	Subject string `json:"subject"`
	// Now says that it is reached. Else it is at Until; zero means that nobody can tell whether and when.
	Now   bool      `json:"now,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Detail are the figures behind it; they change at each look.
	Detail string `json:"detail,omitempty"`
	Advice string `json:"advice"`
}

func limit(cause Cause, subject string) Limit {
	a := cause.about()
	return Limit{Cause: cause, Effect: a.effect, Subject: subject, Advice: a.advice}
}

// dated reports whether it is known when.
func (l *Limit) dated() bool { return l.Now || !l.Until.IsZero() }

// within reports whether it is reached before d has passed.
func (l *Limit) within(at time.Time, d time.Duration) bool {
	return l.Now || !l.Until.IsZero() && l.Until.Before(at.Add(d))
}

// left is the time to it from then on, never below 0.
func (l *Limit) left(at time.Time) time.Duration {
	if l.Now {
		return 0
	}
	return max(0, l.Until.Sub(at))
}

// compare orders limits: those that end the horizon first, then by time, cause and subject. Those without a time are last.
func compare(at time.Time) func(a, b Limit) int {
	rank := func(l *Limit) int {
		switch {
		case l.Effect.ends() && l.dated():
			return 0
		case l.dated():
			return 1
		}
		return 2
	}
	order := func(c Cause) int { return slices.IndexFunc(causes, func(a about) bool { return a.cause == c }) }
	return func(a, b Limit) int {
		for _, d := range []int{rank(&a) - rank(&b), compareTimes(a.left(at), b.left(at)), order(a.Cause) - order(b.Cause)} {
			if d != 0 {
				return d
			}
		}
		switch {
		case a.Subject < b.Subject:
			return -1
		case a.Subject > b.Subject:
			return 1
		}
		return 0
	}
}

func compareTimes(a, b time.Duration) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
