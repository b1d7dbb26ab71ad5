package horizon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// world is all that a Watcher works with. Its fields are changed while the Watcher sleeps; mu is for the race detector, which does not
// know that.
type world struct {
	mu sync.Mutex

	certificate Certificate
	pods        []Pod
	disk        Disk
	queue       Queue
	err         error // of pods
	linked      bool

	shown  Shown
	absent bool // no Node
	writes int
	refuse error // of writes
	events []Event
	told   []Cause
	notes  int
}

// now takes what the test has written before it let time pass.
func (w *world) now() *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w
}

func (w *world) Certificate(context.Context) (Certificate, error) { return w.now().certificate, nil }
func (w *world) Pods(context.Context) ([]Pod, error)              { return w.now().pods, w.err }
func (w *world) Disks(context.Context) ([]Disk, error)            { return []Disk{w.now().disk}, nil }
func (w *world) Outbox(context.Context) ([]Queue, error)          { return []Queue{w.now().queue}, nil }
func (w *world) Linked() bool                                     { return w.now().linked }

func (w *world) Shown(context.Context) (Shown, bool, error) { return w.now().shown, !w.absent, nil }

func (w *world) Show(_ context.Context, s Shown) error {
	if w.now().refuse == nil {
		w.shown = s
		w.writes++
	}
	return w.refuse
}

func (w *world) Event(_ context.Context, e Event) error {
	w.now().events = append(w.events, e)
	return nil
}

func (w *world) Told(context.Context) ([]Cause, error) { return w.now().told, nil }

func (w *world) Tell(_ context.Context, told []Cause) error {
	w.now().told = told
	w.notes++
	return nil
}

func newWorld() *world {
	return &world{certificate: Certificate{NotAfter: time.Now().Add(7 * day), Renewable: time.Now().Add(97 * day)}, linked: true,
		disk: Disk{Path: "/d", Free: 8 << 30, Total: 10 << 30, Floor: 1 << 30, Cause: DiskFills}, queue: Queue{Class: "event", Quota: 8 << 20}}
}

// watched runs f while a Watcher looks at w each minute, in a time that passes as f waits. pass lets it pass.
func watched(t *testing.T, f func(w *world, watcher *Watcher, reg *prometheus.Registry, pass func(time.Duration))) {
	synctest.Test(t, func(t *testing.T) {
		w, reg := newWorld(), prometheus.NewRegistry()
		watcher := New(Config{AtLeast: atLeast}, Deps{Sources: w, Node: w, Memory: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Registry: reg})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- watcher.Start(ctx) }()
		synctest.Wait()
		f(w, watcher, reg, func(d time.Duration) {
			w.now()
			time.Sleep(d)
			synctest.Wait()
		})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAnIdleNodeWritesOnceAndThenNothing(t *testing.T) {
	watched(t, func(w *world, _ *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		if w.shown.Status != corev1.ConditionTrue || w.writes != 1 {
			t.Fatalf("at first it shows %+v after %d writes", w.shown, w.writes)
		}
		for hour := range 200 {
			w.disk.Free -= int64(hour%5-2) * mebi // something always moves a little
			w.queue.Used = int64(hour % 7 * 1000)
			pass(time.Hour)
		}
		if w.writes != 1 || w.notes != 0 || len(w.events) != 0 {
			t.Errorf("after 200 hours: %d writes of the Node, %d of notes, events %v", w.writes, w.notes, w.events)
		}
	})
}

func TestACauseIsShownAndToldAndGoes(t *testing.T) {
	watched(t, func(w *world, watcher *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		w.pods = []Pod{missing("a/b")}
		pass(2 * time.Minute)
		if w.shown.Status != corev1.ConditionFalse || w.shown.Reason != string(ImageMissing) || w.writes != 2 || len(w.events) != 1 || !w.events[0].Warning {
			t.Fatalf("shows %+v after %d writes, events %v", w.shown, w.writes, w.events)
		}
		if j, ok := watcher.Status(); !ok || !j.Now || j.Enough || len(j.Limits) != 2 {
			t.Errorf("its status is %+v, %v", j, ok)
		}
		w.pods = nil
		pass(time.Minute)
		if w.shown.Status != corev1.ConditionTrue || len(w.events) != 2 || w.events[1].Warning || w.notes != 2 {
			t.Errorf("then it shows %+v, events %v", w.shown, w.events)
		}
	})
}

// What is written and deleted all day moves the free space around a limit: its cause comes once, and goes with an eighth more.
func TestSpaceAroundALimitComesAndGoesOnce(t *testing.T) {
	for name, c := range map[string]struct {
		disk  Disk
		limit int64 // the free space below which there is too little
		cause Cause
		shown corev1.ConditionStatus // while there is
	}{
		"for all logs":    {Disk{Path: "/d", Total: 10 << 30, Floor: 1 << 30, Cause: DiskFills, Logs: 3 << 30}, 4 << 30, LogsCanFill, corev1.ConditionTrue},
		"for pods":        {Disk{Path: "/d", Total: 10 << 30, Floor: 1 << 30, Cause: DiskFills}, 1<<30 + 1, DiskFills, corev1.ConditionFalse},
		"for the store's": {Disk{Path: "/s", Total: 10 << 30, Floor: 1 << 30, Cause: StoreFills}, 1<<30 + 1, StoreFills, corev1.ConditionTrue},
	} {
		t.Run(name, func(t *testing.T) {
			watched(t, func(w *world, _ *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
				w.disk = c.disk
				for minute := range 20 {
					w.disk.Free = c.limit - 1 + int64(minute%2)*mebi
					pass(time.Minute)
					if w.shown.Status != c.shown {
						t.Fatalf("with %d bytes more than needed it shows %+v", w.disk.Free-c.limit, w.shown)
					}
				}
				if len(w.events) != 1 || !w.events[0].Warning || w.events[0].Reason != string(c.cause) {
					t.Fatalf("it tells %+v, expected %s once", w.events, c.cause)
				}
				w.disk.Free = c.limit + c.limit/8
				pass(time.Minute)
				if w.shown.Status != corev1.ConditionTrue || len(w.events) != 2 || w.events[1].Warning {
					t.Errorf("with an eighth more it shows %+v, and tells %+v", w.shown, w.events)
				}
				w.disk.Free = c.limit
				pass(time.Minute)
				if w.shown.Status != corev1.ConditionTrue || len(w.events) != 2 {
					t.Errorf("with just enough it shows %+v again, and tells %+v", w.shown, w.events)
				}
			})
		})
	}
}

// Without a link everything is judged and shown as with one; who can mend it hears it once there is a link.
func TestOfflineItGoesOnAndTellsLater(t *testing.T) {
	watched(t, func(w *world, watcher *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		w.linked, w.pods = false, []Pod{missing("a/b")}
		pass(time.Hour)
		if j, _ := watcher.Status(); w.shown.Status != corev1.ConditionFalse || !j.Now || len(w.events) != 0 {
			t.Fatalf("offline it shows %+v, events %v", w.shown, w.events)
		}
		for range 100 { // events come in
			w.queue.Used += 70 << 10
			pass(time.Minute)
		}
		j, _ := watcher.Status()
		left, ok := j.earliest(OutboxFills, j.At)
		if want := time.Duration(float64(8<<20-w.queue.Used)/(70<<10)*60) * time.Second; !ok || (left-want).Abs() > 2*time.Minute {
			t.Errorf("the outbox is full in %v, %v, expected %v", left, ok, want)
		}
		w.linked = true
		pass(time.Minute)
		if len(w.events) != 1 || w.events[0].Reason != string(ImageMissing) {
			t.Errorf("with a link it tells %v", w.events)
		}
		if j, _ = watcher.Status(); len(w.told) != 1 {
			t.Errorf("told %v", w.told)
		}
		if _, ok = j.earliest(OutboxFills, j.At); ok {
			t.Error("with a link the outbox is said to fill")
		}
		w.linked, w.queue.Used = false, 0
		pass(2 * time.Minute)
		if j, _ = watcher.Status(); len(j.Limits) != 2 {
			t.Errorf("what was seen in the last cut counts in the next: %+v", j.Limits)
		}
	})
}

// Nobody waits a minute after a boot because the runtime came up beside edgecore.
func TestAfterABootItIsShownAsSoonAsItCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.err, w.absent = errors.New("the runtime is coming up"), true
		watcher := New(Config{AtLeast: atLeast}, Deps{Sources: w, Node: w, Memory: w, Log: slog.New(slog.DiscardHandler), Now: time.Now, Registry: prometheus.NewRegistry()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- watcher.Start(ctx) }()
		pass := func(d time.Duration) {
			w.now()
			time.Sleep(d)
			synctest.Wait()
		}
		pass(12 * time.Second)
		w.err = nil
		pass(12 * time.Second)
		w.absent = false
		pass(6 * time.Second)
		if w.shown.Status != corev1.ConditionTrue {
			t.Errorf("after half a minute it shows %+v", w.shown)
		}
		cancel()
		<-ended
	})
}

func TestADiskThatFillsIsSeenInTime(t *testing.T) {
	watched(t, func(w *world, watcher *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		hours := 0
		for w.shown.Status != corev1.ConditionFalse && hours < 100 {
			for range 4 {
				w.disk.Free -= 15 * mebi // 60 MiB an hour: 7 GiB last for five days
				pass(15 * time.Minute)
			}
			hours++
		}
		rest := float64(w.disk.Free-w.disk.Floor) / (60 * mebi)
		if w.shown.Reason != string(DiskFills) || rest < 70 || rest > 73 {
			t.Errorf("after %d hours, with %.1f left, it shows %+v", hours, rest, w.shown)
		}
	})
}

// A runtime that is away for some minutes changes nothing; one that stays away is said.
func TestWhatCannotBeReadIsNotGuessed(t *testing.T) {
	watched(t, func(w *world, watcher *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		w.pods = []Pod{missing("a/b")}
		pass(time.Minute)
		short, told := w.shown, len(w.events)
		w.pods, w.err = nil, errors.New("the runtime is away")
		pass(9 * time.Minute)
		if w.shown != short || len(w.events) != told {
			t.Fatalf("after nine minutes it shows %+v, events %v", w.shown, w.events)
		}
		if j, _ := watcher.Status(); len(j.Unread) != 1 {
			t.Errorf("the status does not say what it lacks: %+v", j)
		}
		w.err = errors.New("the runtime is away since a while")
		pass(3 * time.Minute)
		unknown := w.shown
		if unknown.Status != corev1.ConditionUnknown || unknown.Reason != ReasonUnread || !strings.Contains(unknown.Message, "pods and images: the runtime is away") {
			t.Fatalf("then it shows %+v", unknown)
		}
		writes := w.writes
		for i := range 100 {
			w.err = fmt.Errorf("try %d", i)
			pass(time.Minute)
		}
		if w.writes != writes {
			t.Errorf("an error that changes its text made %d writes", w.writes-writes)
		}
		w.err = nil
		pass(time.Minute)
		if w.shown.Status != corev1.ConditionTrue || len(w.events) != told+1 {
			t.Errorf("when it is back: %+v, events %v", w.shown, w.events)
		}
	})
}

func TestANodeThatIsNotThereOrRefusesIsTriedAgain(t *testing.T) {
	watched(t, func(w *world, _ *Watcher, _ *prometheus.Registry, pass func(time.Duration)) {
		w.absent, w.shown, w.writes = true, Shown{}, 0
		pass(5 * time.Minute)
		w.absent, w.refuse = false, errors.New("no")
		pass(5 * time.Minute)
		if w.writes != 0 || len(w.events) != 0 {
			t.Fatalf("%d writes, events %v", w.writes, w.events)
		}
		w.refuse = nil
		pass(time.Minute)
		if w.shown.Status != corev1.ConditionTrue || w.shown.Until == "" {
			t.Errorf("shows %+v", w.shown)
		}
	})
}

func TestMetricsCountDownToEachCause(t *testing.T) {
	watched(t, func(w *world, _ *Watcher, reg *prometheus.Registry, pass func(time.Duration)) {
		gauges := func() map[string]float64 {
			all := map[string]float64{}
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.Metric {
					name := f.GetName()
					for _, l := range m.Label {
						name += " " + l.GetValue()
					}
					all[strings.TrimPrefix(name, "tether_edge_autonomy_")] = m.GetGauge().GetValue()
				}
			}
			return all
		}
		began := gauges()
		pass(30 * time.Second)
		now := gauges()
		if now["horizon_seconds"] != 97*day.Seconds()-30 || now["seconds CertificateEnds"] != now["horizon_seconds"] || began["horizon_seconds"] != now["horizon_seconds"]+30 {
			t.Errorf("at first %v, then %v", began, now)
		}
		if !math.IsInf(now["seconds ImageMissing"], 1) || len(now) != len(causes)+1 {
			t.Errorf("of what is not there: %v", now)
		}
		w.pods = []Pod{missing("a/b")}
		pass(time.Minute)
		if now = gauges(); now["seconds ImageMissing"] != 0 || now["horizon_seconds"] != 0 {
			t.Errorf("of what has ended: %v", now)
		}
	})
}
