package horizon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// Sources are where the parts of a Snapshot come from. An error says what could not be read; it costs that part alone.
type Sources interface {
	Certificate(ctx context.Context) (Certificate, error)
	Pods(ctx context.Context) ([]Pod, error)
	Disks(ctx context.Context) ([]Disk, error)
	Outbox(ctx context.Context) ([]Queue, error)
	// Linked reports whether there is a link to the cloud.
	Linked() bool
}

// Node is this node's Node in the local API.
type Node interface {
	// Shown returns what it shows; ok is false while there is no Node.
	Shown(ctx context.Context) (s Shown, ok bool, err error)
	Show(ctx context.Context, s Shown) error
	// Event makes an Event at it.
	Event(ctx context.Context, e Event) error
}

// Memory keeps, over restarts, which causes were told in Events. Neither blocks for the network.
type Memory interface {
	Told(ctx context.Context) ([]Cause, error)
	Tell(ctx context.Context, told []Cause) error
}

// Config parametrizes a Watcher.
type Config struct {
	// AtLeast is how long the node should be able to go on alone.
	AtLeast time.Duration
}

// Deps are what a Watcher works with; all are required.
type Deps struct {
	Sources  Sources
	Node     Node
	Memory   Memory
	Log      *slog.Logger
	Now      func() time.Time
	Registry prometheus.Registerer
}

// A Watcher judges its node again and again.
type Watcher struct {
	cfg   Config
	deps  Deps
	began time.Time // of the clock that nobody sets

	// What follows belongs to Start.
	disks map[string]*series
	queue map[string]*series
	// annotated is when the annotation was last changed, readable when everything could last be read; both since began.
	annotated, readable time.Duration
	said                string // the last problem that was logged

	mu   sync.Mutex // guards last
	last *Judgement
}

const (
	// lookEvery is how often the node is judged.
	lookEvery = time.Minute
	// lookSoon is it in the first minute, while the parts that it is read from are still coming up.
	lookSoon = 5 * time.Second
)

// New returns a Watcher that does nothing until Start.
func New(cfg Config, deps Deps) *Watcher {
	w := &Watcher{cfg: cfg, deps: deps, began: time.Now(), disks: map[string]*series{}, queue: map[string]*series{}, annotated: -restless}
	w.register()
	return w
}

// Start judges until ctx is done.
func (w *Watcher) Start(ctx context.Context) error {
	started := time.Now()
	w.readable = time.Since(w.began)
	for {
		shown := w.look(ctx)
		wait := lookEvery
		if !shown && time.Since(started) < lookEvery {
			wait = lookSoon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Status returns the last judgement; ok is false before the first. It may be called from any goroutine.
func (w *Watcher) Status() (j Judgement, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		return Judgement{}, false
	}
	return *w.last, true
}

// lookFor bounds a look: a runtime or a disk that hangs is something that cannot be read.
const lookFor = 30 * time.Second

// look reports whether the Node shows what was judged.
func (w *Watcher) look(ctx context.Context) (shown bool) {
	bounded, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	j := Judge(w.snapshot(bounded), w.cfg.AtLeast)
	if ctx.Err() != nil {
		return false
	}
	w.mu.Lock()
	w.last = &j
	w.mu.Unlock()
	shown, err := w.tell(ctx, &j)
	text := ""
	if err != nil {
		text = err.Error()
	}
	// Once, not each minute.
	if text != w.said && text != "" && ctx.Err() == nil {
		w.deps.Log.Warn("cannot show how long the node can go on alone", "error", err)
	}
	w.said = text
	return shown
}

// snapshot reads every part, each for itself.
func (w *Watcher) snapshot(ctx context.Context) Snapshot {
	s := Snapshot{At: w.deps.Now()}
	var err error
	unread := func(what string) {
		if err != nil {
			s.Unread = append(s.Unread, fmt.Sprintf("%s: %v", what, err))
		}
	}
	src, at := w.deps.Sources, time.Since(w.began)
	s.Certificate, err = src.Certificate(ctx)
	unread("certificate")
	s.Pods, err = src.Pods(ctx)
	unread("pods and images")
	s.Disks, err = src.Disks(ctx)
	unread("disks")
	for i := range s.Disks {
		d := &s.Disks[i]
		name, fresh := d.Path, diskSeries
		if d.Inodes {
			name, fresh.noise = name+" (inodes)", inodeNoise
		}
		d.Growth = measure(w.disks, name, fresh, at, d.Total-d.Free)
	}
	s.Outbox, err = src.Outbox(ctx)
	unread("outbox")
	if src.Linked() {
		clear(w.queue) // how fast it fills is seen while it does
		return s
	}
	for i := range s.Outbox {
		q := &s.Outbox[i]
		q.Growth = measure(w.queue, q.Class, queueSeries, at, q.Used)
	}
	return s
}

func measure(all map[string]*series, name string, fresh series, at time.Duration, bytes int64) Rate {
	if all[name] == nil {
		all[name] = &fresh
	}
	all[name].add(at, bytes)
	return all[name].rate
}

// What is known of a disk after a day, and of the outbox after two hours, is enough to see eight days and sixteen hours ahead.
var (
	diskSeries  = series{every: 15 * time.Minute, window: 24 * time.Hour, span: 2 * time.Hour, noise: 16 << 20}
	queueSeries = series{every: time.Minute, window: 2 * time.Hour, span: 10 * time.Minute, noise: 16 << 10}
)

// inodeNoise is how many inodes more are no growth.
const inodeNoise = 1 << 10

// tell shows a judgement at the Node, if there is one and all could be read, and makes Events of what came or went while there is a link to mend it.
func (w *Watcher) tell(ctx context.Context, j *Judgement) (shown bool, err error) {
	at := time.Since(w.began)
	before, ok, err := w.deps.Node.Shown(ctx)
	if err != nil || !ok {
		return false, err
	}
	var next Shown
	switch {
	case len(j.Unread) == 0:
		w.readable = at
		next = show(j, before, at-w.annotated)
	case at-w.readable < unreadFor:
		return false, nil
	default:
		next = unknown(j.Unread, before)
		if before.Status == corev1.ConditionUnknown {
			next = before // the text of an error may change each minute
		}
	}
	if next != before {
		if err := w.deps.Node.Show(ctx, next); err != nil {
			return false, fmt.Errorf("write the Node: %w", err)
		}
		if next.Until != before.Until {
			w.annotated = at
		}
	}
	if len(j.Unread) > 0 || !w.deps.Sources.Linked() {
		return true, nil
	}
	return true, w.announce(ctx, j)
}

func (w *Watcher) announce(ctx context.Context, j *Judgement) error {
	told, err := w.deps.Memory.Told(ctx)
	if err != nil {
		return fmt.Errorf("read what was told: %w", err)
	}
	events, now := announcements(j, told)
	if slices.Equal(told, now) {
		return nil
	}
	for _, e := range events {
		if err := w.deps.Node.Event(ctx, e); err != nil {
			return fmt.Errorf("make an Event: %w", err)
		}
	}
	if err := w.deps.Memory.Tell(ctx, now); err != nil {
		return fmt.Errorf("note what was told: %w", err)
	}
	return nil
}
