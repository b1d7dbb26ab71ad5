package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/drill"
)

// Config parametrizes a Drill.
type Config struct {
	// Enabled lets this node take part in drills.
	Enabled bool
	// Supervised says that an agent that is killed is started again.
	Supervised bool
}

// A Waiting sums up what waits for the cloud: First and Last are the oldest and the newest message, 0 for none.
type Waiting struct {
	First, Last uint64
	Classes     []drill.Waiting
}

// Memory keeps notes on the disk.
type Memory interface {
	// Load returns the value of each key.
	Load(ctx context.Context) (map[string][]byte, error)
	// Keep returns once the values are on the disk, all or none; nil removes one.
	Keep(ctx context.Context, values map[string][]byte) error
}

// The Cluster is what is known here of the cluster and told to it; none of it waits for the network.
type Cluster interface {
	// Node returns nil where the store has none.
	Node(ctx context.Context) (*Node, error)
	// Changed sends when the Node may be another one.
	Changed(ctx context.Context) <-chan struct{}
	// Say shows a state in the Node, nil for none, and takes away what was written to stop a drill if over.
	Say(ctx context.Context, state *string, over bool) error
	// Happened makes an Event of the Node.
	Happened(ctx context.Context, warning bool, reason, message string)
}

// The Site is what is watched. Its methods may be called at any time.
type Site interface {
	// Pods asks the local API for all pods of this node.
	Pods(ctx context.Context) ([]corev1.Pod, error)
	// Waiting looks into the outbox, Lost is how many messages ever went undelivered.
	Waiting(ctx context.Context) (Waiting, error)
	Lost() uint64
	// Updates is how many updates of devices' twins this process has taken.
	Updates() uint64
	// Kubelet is empty if the kubelet runs, else its state.
	Kubelet() string
	// Linked reports whether the link is up and this node has caught up with the cloud.
	Linked() bool
}

// Deps are what a Drill works with; all are required.
type Deps struct {
	Memory  Memory
	Cluster Cluster
	Site    Site
	Now     func() Moment
	// PowerCut ends this process as a power cut would; it does not return.
	PowerCut func()
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// A Drill is this node's part in drills.
type Drill struct {
	cfg   Config
	deps  Deps
	gate  *Gate
	count *prometheus.CounterVec

	// All below belongs to Start.
	note   note
	record *record
	report *drill.Report
	// looked is when the pods were looked at last, updates how many there were then.
	looked  Moment
	updates uint64
	// unkept is why the note is not on the disk; unsaid: the Node does not show it.
	unkept string
	unsaid bool
	// complained are the troubles that were logged last, by what failed.
	complained map[string]string
}

// New returns a Drill whose gate is shut until it starts.
func New(cfg Config, deps Deps) *Drill {
	d := &Drill{cfg: cfg, deps: deps, gate: newGate(), complained: map[string]string{}}
	d.count = newMetrics(deps.Registry, d.gate)
	return d
}

// Gate says whether the cloud may be reached.
func (d *Drill) Gate() *Gate { return d.gate }

const (
	// turnEvery is how often things are looked at while a drill is under way, restEvery while none is and nothing changes.
	turnEvery, restEvery = 500 * time.Millisecond, time.Minute
	// sayAgain is how soon it is tried again to show in the Node what could not be shown.
	sayAgain = 5 * time.Second
	// lookEvery is how often the local API is asked for the pods, and lookPatience how long it has for the answer.
	lookEvery, lookPatience = 2 * time.Second, 5 * time.Second
)

// Start takes part in drills until ctx is done. A drill that was under way when the last process ended goes on.
func (d *Drill) Start(ctx context.Context) error {
	d.load(ctx)
	changed := d.deps.Cluster.Changed(ctx)
	for {
		pause := restEvery
		switch under := d.turn(ctx); {
		case under:
			pause = turnEvery
		case d.unsaid:
			pause = sayAgain
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-changed:
			t.Stop()
		case <-t.C:
		}
	}
}

// The keys of what is kept.
const (
	keyNote   = "note"
	keyRecord = "record"
	keyReport = "report"
)

// load reads what the last process knew. What cannot be read is no drill: a node that is cut off without an end would be worse.
func (d *Drill) load(ctx context.Context) {
	kept, err := d.deps.Memory.Load(ctx)
	if err == nil && kept[keyNote] != nil {
		err = json.Unmarshal(kept[keyNote], &d.note)
	}
	if err == nil && kept[keyReport] != nil {
		err = json.Unmarshal(kept[keyReport], &d.report)
	}
	if err != nil {
		d.deps.Log.Error("what is kept of a drill cannot be read: if one was under way it ends now", "error", err)
		d.note, d.report = note{}, nil
	}
	d.record = newRecord(d.deps.Site.Lost())
	if err := json.Unmarshal(kept[keyRecord], d.record); err != nil && kept[keyRecord] != nil {
		d.deps.Log.Warn("what was seen of a drill before edgecore started cannot be read", "error", err)
		d.record = newRecord(d.deps.Site.Lost())
	}
	if d.note.Phase == drill.Cut {
		d.record.Starts++
		if err := d.deps.Memory.Keep(ctx, map[string][]byte{keyRecord: encode(d.record)}); err != nil {
			d.complain(ctx, unkeptRecord, err)
		}
		d.deps.Log.Warn("a drill is under way: the cloud is not to be reached before its end", "id", d.note.Order.ID, "left", d.note.left(d.deps.Now()).Round(time.Second))
	}
}

// turn does what follows from how things are, and reports whether something is under way that is to be looked at soon again.
func (d *Drill) turn(ctx context.Context) (under bool) {
	in, waiting := d.see(ctx)
	for {
		next := d.note.step(in)
		if next == d.note || !d.take(ctx, next, in, waiting) {
			break
		}
	}
	d.gate.set(d.note.shut())
	if p := d.note.Phase; p == drill.Cut || p == drill.Back {
		d.look(ctx, in.now)
	}
	d.say(ctx, in.node)
	return d.note.Phase != "" && !d.note.Phase.Over() || in.unheard(d.note)
}

// shut is why the cloud is not to be reached.
func (n note) shut() error {
	if n.Phase != drill.Cut {
		return nil
	}
	return fmt.Errorf("%w %s until %s; 'keadm ctl drill stop' here ends it", drill.ErrCut, n.Order.ID, stamp(n.Until))
}

func (d *Drill) see(ctx context.Context) (input, Waiting) {
	in := input{now: d.deps.Now(), may: objections{disabled: !d.cfg.Enabled, unsupervised: !d.cfg.Supervised, kubelet: d.deps.Site.Kubelet()},
		unkept: d.unkept, linked: d.deps.Site.Linked()}
	var err error
	if in.node, err = d.deps.Cluster.Node(ctx); err != nil {
		d.complain(ctx, "the Node cannot be read", err)
	}
	var w Waiting
	// Only then it counts, and a long outage leaves much to look through.
	if p := d.note.Phase; p == drill.Cut && d.note.step(in).Phase == drill.Back || p == drill.Back && in.linked {
		if w, err = d.deps.Site.Waiting(ctx); err != nil {
			d.complain(ctx, "the outbox cannot be read", err)
			w.First, w.Last = 1, ^uint64(0) // so that nothing counts as delivered
		}
		in.first, in.last = w.First, w.Last
	}
	return in, w
}

// take makes next the note, and does what has to be done once, at the change. It reports false where that has to wait for
// the disk.
func (d *Drill) take(ctx context.Context, next note, in input, w Waiting) bool {
	was := d.note
	values := map[string][]byte{keyNote: next.encode()}
	begins, kill, ends := was.Phase == drill.Agreed && next.Phase == drill.Cut, next.Powered && !was.Powered, next.Phase == drill.Back && was.Phase == drill.Cut
	switch {
	case begins:
		d.record, d.looked, d.updates = newRecord(d.deps.Site.Lost()), Moment{}, d.deps.Site.Updates()
		d.look(ctx, in.now)
		values[keyRecord], values[keyReport] = encode(d.record), nil
	case ends:
		d.record.Waited = w.Classes
		fallthrough
	case kill:
		d.countUpdates()
		values[keyRecord] = encode(d.record)
	case next.Phase == drill.Done && was.Phase != drill.Done:
		d.countUpdates()
		d.report = d.record.report(next, ending{kubelet: in.may.kubelet, lost: d.deps.Site.Lost()})
		values[keyReport], values[keyRecord] = encode(d.report), nil
	case next.Phase != was.Phase && was.Phase.Over():
		d.report, values[keyReport] = nil, nil
	}
	if err := d.deps.Memory.Keep(ctx, values); err != nil {
		d.complain(ctx, "the state of a drill cannot be kept on the disk", err)
		d.unkept = err.Error()
		if begins || kill {
			return false
		}
	} else {
		d.unkept = ""
	}
	d.note = next
	if next.Phase != was.Phase || next.Heard != was.Heard {
		d.tell(ctx, next)
	}
	if kill {
		d.deps.Log.Warn("the drill has this agent killed, as its power cut", "id", next.Order.ID)
		d.deps.PowerCut()
	}
	return true
}

// tell says that a drill has come to another phase.
func (d *Drill) tell(ctx context.Context, n note) {
	log := d.deps.Log.With("id", n.Order.ID, "phase", n.Phase)
	switch n.Phase {
	case drill.Refused, drill.CalledOff:
		result := resultRefused
		if n.Phase == drill.CalledOff {
			result = resultCalledOff
		}
		d.count.WithLabelValues(result).Inc()
		log.Warn("there is no drill", "why", n.Why)
	case drill.Agreed:
		log.Warn("a drill was ordered: the link is cut once the cluster shows that this node agreed", "for", n.Order.For.Duration)
	case drill.Cut:
		log.Warn("a drill cuts the link", "until", n.Until)
		d.deps.Cluster.Happened(ctx, false, "DrillBegan", fmt.Sprintf("Drill %s cut the link of this node, as ordered, until %s", n.Order.ID, stamp(n.Until)))
	case drill.Back:
		log.Warn("the cut of a drill is over", "by", n.End)
	case drill.Done:
		broke := len(d.report.Broke) + d.report.MoreBroke
		if broke == 0 {
			d.count.WithLabelValues(resultWell).Inc()
			d.deps.Cluster.Happened(ctx, false, "DrillEnded", fmt.Sprintf("Drill %s is over: nothing broke", n.Order.ID))
		} else {
			d.count.WithLabelValues(resultBroke).Inc()
			d.deps.Cluster.Happened(ctx, true, "DrillEnded", fmt.Sprintf("Drill %s is over: %d things broke, the first: %s", n.Order.ID, broke, d.report.Broke[0]))
		}
		log.Warn("a drill is over", "broke", d.report.Broke)
	}
}

// look asks the local API for the pods, if it is time.
func (d *Drill) look(ctx context.Context, now Moment) {
	if d.looked.Boot != "" && now.since(d.looked) < lookEvery {
		return
	}
	d.looked = now
	begun := d.deps.Now()
	lctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	pods, err := d.deps.Site.Pods(lctx)
	if ctx.Err() != nil {
		return
	}
	d.record.Reads++
	d.record.Slowest = max(d.record.Slowest, d.deps.Now().since(begun))
	if err != nil {
		d.record.Unanswered++
		d.deps.Log.Warn("the local API does not answer during a drill", "error", err)
		return
	}
	if !d.record.look(now, pods, d.note.Phase != drill.Back) {
		return
	}
	d.countUpdates()
	if err := d.deps.Memory.Keep(ctx, map[string][]byte{keyRecord: encode(d.record)}); err != nil {
		d.complain(ctx, unkeptRecord, err)
	}
}

const unkeptRecord = "what was seen of a drill cannot be kept on the disk"

func (d *Drill) countUpdates() {
	n := d.deps.Site.Updates()
	d.record.Updates += n - min(n, d.updates)
	d.updates = n
}

// say shows the state in the Node, if it does not yet.
func (d *Drill) say(ctx context.Context, shown *Node) {
	if shown == nil {
		return
	}
	over := d.note.Phase == "" || d.note.Phase.Over()
	var want *string
	text := ""
	if d.note.Phase != "" {
		s := d.note.state()
		s.Report = d.report
		text = s.Text()
		want = &text
	}
	if shown.State == text && (shown.Stop == "" || !over) {
		d.unsaid = false
		return
	}
	err := d.deps.Cluster.Say(ctx, want, over)
	if d.unsaid = err != nil; d.unsaid {
		d.complain(ctx, "the state of a drill cannot be shown in the Node", err)
	}
}

// complain logs what fails at each turn once.
func (d *Drill) complain(ctx context.Context, what string, err error) {
	if ctx.Err() == nil && d.complained[what] != err.Error() {
		d.complained[what] = err.Error()
		d.deps.Log.Warn(what, "error", err)
	}
}

func encode(v any) []byte {
	b, _ := json.Marshal(v) // records and reports are plain data
	return b
}
