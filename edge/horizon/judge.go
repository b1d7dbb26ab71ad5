package horizon

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Snapshot is the node as it was at a moment. What could not be read is empty, and Unread says so.
type Snapshot struct {
	At          time.Time
	Certificate Certificate
	Pods        []Pod
	Disks       []Disk
	Outbox      []Queue
	Unread      []string
}

// A Certificate is how long the node's own lasts; zero if it is not known.
type Certificate struct {
	NotAfter time.Time
	// Renewable is until when it can be exchanged for a new one; zero if CloudCore did not say.
	Renewable time.Time
}

// A Pod is what one needs that may be started again.
type Pod struct {
	// Name is namespace/name.
	Name   string
	Images []Image
	// NeedsToken: it mounts one. Token is when the first of those that are stored ends; zero if none is.
	NeedsToken bool
	Token      time.Time
	// Fences: the pod is ended where the cloud is not heard for Fence from now on.
	Fences bool
	Fence  time.Duration
}

// An Image is one that a pod needs.
type Image struct {
	Need
	// Here: the runtime has it. Given: its registry gave what is here to this pod's credentials, so that it serves offline.
	Here, Given bool
}

// A Disk is a file system and what happens when it fills.
type Disk struct {
	Path string
	// Inodes: what follows counts inodes, of files and directories, not bytes.
	Inodes bool
	// Free and Total are in bytes; Floor is the free space at which Cause, DiskFills or StoreFills, is there.
	Free, Total, Floor int64
	Cause              Cause
	// Logs is how much more the containers' logs on it may grow before they are rotated away, in bytes.
	Logs int64
	// Growth is the Watcher's to fill in.
	Growth Rate
}

// A Queue is what waits for the cloud of a class with a quota, in bytes.
type Queue struct {
	Class       string
	Used, Quota int64
	// Growth is the Watcher's to fill in; only while there is no link.
	Growth Rate
}

// full is the share of a quota from which on the next message may find no room.
const full = 0.98

// A Judgement is how long the node can go on alone.
type Judgement struct {
	At time.Time `json:"at"`
	// AtLeast is how long it should, and Enough whether it can.
	AtLeast time.Duration `json:"-"`
	Enough  bool          `json:"enough"`
	// Now says that something has ended already. Else the horizon is Until; zero if nothing is known that ends it.
	Now   bool      `json:"now,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Limits are all that is known, those that end the horizon first.
	Limits []Limit `json:"limits"`
	// Unread says what could not be judged, and why.
	Unread []string `json:"unread,omitempty"`
	// lingering are no limits, and so near to being some that what was said of them is not taken back.
	lingering []Limit
}

// Judge is pure: the same snapshot gives the same judgement.
func Judge(s Snapshot, atLeast time.Duration) Judgement {
	j := Judgement{At: s.At, AtLeast: atLeast, Enough: true, Limits: []Limit{}, Unread: s.Unread}
	j.certificate(s)
	for i := range s.Pods {
		j.pod(s.At, &s.Pods[i])
		j.fence(s.At, &s.Pods[i])
	}
	for i := range s.Disks {
		j.disk(s.At, &s.Disks[i])
	}
	for _, q := range s.Outbox {
		j.queue(s.At, q)
	}
	slices.SortFunc(j.Limits, compare(s.At))
	if len(j.Limits) > 0 && j.Limits[0].Effect.ends() && j.Limits[0].dated() {
		first := &j.Limits[0]
		j.Now, j.Until, j.Enough = first.Now, first.Until, !first.within(s.At, atLeast)
	}
	return j
}

// at sets when a limit is reached: what is past is now.
func (l Limit) at(now, until time.Time) Limit {
	if l.Now = !until.After(now); !l.Now {
		l.Until = until
	}
	return l
}

func (j *Judgement) add(l Limit) { j.Limits = append(j.Limits, l) }

// certificate: one that has ended stops no pod. The link stays down until it is exchanged, which CloudCore does for a while.
func (j *Judgement) certificate(s Snapshot) {
	c := s.Certificate
	if c.NotAfter.IsZero() {
		return
	}
	l := limit(CertificateEnds, "the node's certificate")
	until := c.Renewable
	l.Detail = "it is valid until " + c.NotAfter.UTC().Format(time.RFC3339)
	if until.IsZero() {
		until = c.NotAfter
		l.Detail += "; CloudCore has not said how long after that it can be exchanged"
	}
	j.add(l.at(s.At, until))
}

// fence: a pod that asks for it ends after that time without the cloud. A person was told so where it was asked for.
func (j *Judgement) fence(at time.Time, p *Pod) {
	if !p.Fences {
		return
	}
	l := limit(Fence, "pod "+p.Name)
	l.Detail = "steward.fenceAfter, counted from when the cloud was last heard"
	j.add(l.at(at, at.Add(p.Fence)))
}

func (j *Judgement) pod(at time.Time, p *Pod) {
	for _, i := range p.Images {
		cause := ImageNotProven
		switch {
		case !i.Here:
			cause = ImageMissing
		case !i.Asked || i.Given:
			continue
		}
		l := limit(cause, "pod "+p.Name+", image "+i.Image)
		l.Now = true
		j.add(l)
	}
	if !p.NeedsToken {
		return
	}
	if p.Token.IsZero() {
		l := limit(TokenMissing, "pod "+p.Name)
		l.Now = true
		j.add(l)
		return
	}
	j.add(limit(TokenEnds, "pod "+p.Name).at(at, p.Token))
}

func (j *Judgement) disk(at time.Time, d *Disk) {
	subject, amount := d.Path, mib
	if d.Inodes {
		subject += " (inodes)"
		amount = func(n int64) string { return fmt.Sprint(n) }
	}
	if until, ok := d.Growth.until(at, d.Free-d.Floor); ok {
		l := limit(d.Cause, subject).at(at, until)
		l.Detail = fmt.Sprintf("%s are free, it ends at %s, and it grows by %s an hour", amount(d.Free), amount(d.Floor), amount(int64(d.Growth.PerSecond*3600)))
		j.add(l)
	} else {
		l := limit(d.Cause, subject)
		l.Now, l.Detail = true, fmt.Sprintf("%s are free, it ends at %s", amount(d.Free), amount(d.Floor))
		j.short(l, d.Free, d.Floor+1)
	}
	if d.Logs > 0 {
		l := limit(LogsCanFill, d.Path)
		l.Detail = fmt.Sprintf("%s are free, logs may take %s more, and it ends at %s", mib(d.Free), mib(d.Logs), mib(d.Floor))
		j.short(l, d.Free, d.Floor+d.Logs)
	}
}

// short adds a limit that is one where fewer bytes are free than needed.
func (j *Judgement) short(l Limit, free, needed int64) {
	switch {
	case free < needed:
		j.add(l)
	case free < bar(needed, true):
		j.lingering = append(j.lingering, l)
	}
}

func (j *Judgement) queue(at time.Time, q Queue) {
	l := limit(OutboxFills, "the queue of class "+q.Class)
	l.Detail = fmt.Sprintf("%s of %s are used", mib(q.Used), mib(q.Quota))
	if float64(q.Used) >= full*float64(q.Quota) {
		l.Now = true
		j.add(l)
	} else if until, ok := q.Growth.until(at, q.Quota-q.Used); ok {
		j.add(l.at(at, until))
	}
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// few is how many subjects of a cause are named.
const few = 3

// sentence tells people of the limits of one cause; it holds no figures, so that it stays the same while they move.
func sentence(cause Cause, limits []Limit) string {
	var names []string
	for i := range limits {
		if limits[i].Cause == cause {
			names = append(names, short(limits[i].Subject))
		}
	}
	slices.Sort(names)
	a, more := cause.about(), ""
	if len(names) > few {
		names, more = names[:few], fmt.Sprintf(" (and %d more)", len(names)-few)
	}
	return fmt.Sprintf("%s%s %s; %s", strings.Join(names, "; "), more, a.what, a.advice)
}

// short bounds a name: an image's may have 4 KiB.
func short(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
