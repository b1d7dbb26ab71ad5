package drill

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node, its disk and its cluster; it outlives the agents that a test starts. Its link is up whenever the gate is open
// and the cable is in.
type world struct {
	t     *testing.T
	began time.Time
	drill *Drill

	mu      sync.Mutex // guards all below
	disk    map[string][]byte
	full    error
	node    Node
	cut     bool // the cable is out
	pods    []corev1.Pod
	silent  bool // the local API does not answer
	waits   Waiting
	lost    uint64
	updates uint64
	events  []string
	changed chan struct{}
	killed  []map[string][]byte // what was on the disk at each power cut
}

func newWorld(t *testing.T) *world {
	return &world{t: t, began: time.Now(), disk: map[string][]byte{}, pods: []corev1.Pod{aPod("web")}, changed: make(chan struct{}, 1)}
}

// start starts an agent; stop kills it: what is not on the disk is lost.
func (w *world) start() (stop func()) {
	w.mu.Lock()
	w.updates = 0
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	w.drill = New(Config{Enabled: true, Supervised: true}, Deps{Memory: w, Cluster: w, Site: w, Now: w.now, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		PowerCut: func() {
			w.mu.Lock()
			w.killed = append(w.killed, maps.Clone(w.disk))
			w.mu.Unlock()
			cancel()
		}})
	if _, why := w.drill.Gate().State(); why == nil {
		w.t.Error("the gate is open before anybody looked whether a drill is under way")
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = w.drill.Start(ctx) }()
	return func() { cancel(); <-done }
}

func (w *world) now() Moment { return Moment{Wall: time.Now(), Up: time.Since(w.began), Boot: "b1"} }

func (w *world) with(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
	synctest.Wait()
}

// shown is the Node, powerCuts what was on the disk at each, and happened the Events.
func (w *world) shown() Node { w.mu.Lock(); defer w.mu.Unlock(); return w.node }

func (w *world) powerCuts() []map[string][]byte { w.mu.Lock(); defer w.mu.Unlock(); return w.killed }

func (w *world) happened() []string { w.mu.Lock(); defer w.mu.Unlock(); return w.events }

func (w *world) Load(context.Context) (map[string][]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.disk), nil
}

func (w *world) Keep(_ context.Context, values map[string][]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full != nil {
		return w.full
	}
	for k, v := range values {
		if v == nil {
			delete(w.disk, k)
			continue
		}
		w.disk[k] = slices.Clone(v)
	}
	return nil
}

// Node shows in the cluster what the node said last, if the link is up.
func (w *world) Node(context.Context) (*Node, error) {
	linked := w.Linked()
	w.mu.Lock()
	defer w.mu.Unlock()
	if linked {
		w.node.Shown = w.node.State
	}
	return new(w.node), nil
}

func (w *world) Changed(context.Context) <-chan struct{} { return w.changed }

func (w *world) Say(_ context.Context, state *string, over bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node.State = ""
	if state != nil {
		w.node.State = *state
	}
	if over {
		w.node.Stop = ""
	}
	return nil
}

func (w *world) Happened(_ context.Context, warning bool, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, reason+": "+message)
}

func (w *world) Pods(context.Context) ([]corev1.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent {
		return nil, errors.New("no answer")
	}
	return slices.Clone(w.pods), nil
}

func (w *world) Waiting(context.Context) (Waiting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waits, nil
}

func (w *world) Lost() uint64 { w.mu.Lock(); defer w.mu.Unlock(); return w.lost }

func (w *world) Updates() uint64 { w.mu.Lock(); defer w.mu.Unlock(); return w.updates }

func (w *world) Kubelet() string { return "" }

func (w *world) Linked() bool {
	_, why := w.drill.Gate().State()
	w.mu.Lock()
	defer w.mu.Unlock()
	return why == nil && !w.cut
}

// said is what the Node shows.
func (w *world) said() drill.State {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.node.State == "" {
		return drill.State{}
	}
	s, err := drill.ParseState(w.node.State)
	if err != nil {
		w.t.Fatal(err)
	}
	return *s
}

func (w *world) shut() bool {
	_, why := w.drill.Gate().State()
	return why != nil
}

// order has the cluster show an order that is given now, and waits until the link is cut.
func (w *world) order(change ...func(*drill.Order)) {
	w.t.Helper()
	o := drill.Order{ID: "a1", For: metav1.Duration{Duration: 10 * time.Minute}, Issued: time.Now()}
	for _, f := range change {
		f(&o)
	}
	synctest.Wait()
	w.with(func() { w.node.Order = o.Text() })
	pass(turnEvery)
	if s := w.said(); s.Phase != drill.Cut || !w.shut() {
		w.t.Fatalf("the node says %+v, shut %v: expected the cut", s, w.shut())
	}
}

func pass(d time.Duration) {
	time.Sleep(d) // fake: nothing waits for real
	synctest.Wait()
}

func TestADrillIsAgreedToCutAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.start()()
		synctest.Wait()
		if w.shut() {
			t.Fatal("the gate is shut without a drill")
		}
		w.order()
		w.with(func() {
			w.waits = Waiting{First: 3, Last: 9, Classes: []drill.Waiting{{Class: "event", Count: 7, Bytes: 700}}}
			w.updates = 12
		})
		pass(10*time.Minute - time.Second)
		if !w.shut() {
			t.Error("the gate opened before the deadline")
		}
		pass(2 * time.Second)
		if s := w.said(); w.shut() || s.Phase != drill.Back {
			t.Fatalf("shut %v, the node says %+v: expected the end", w.shut(), s)
		}
		pass(10 * time.Second)
		w.with(func() { w.waits = Waiting{First: 10, Last: 12} })
		pass(time.Second)
		s := w.said()
		if s.Phase != drill.Done || s.Report == nil {
			t.Fatalf("the node says %+v, expected a report", s)
		}
		r := s.Report
		if len(r.Broke) != 0 || r.Pods != 1 || r.Reads < 200 || r.DeviceUpdates != 12 || len(r.Waited) != 1 || r.Waited[0].Count != 7 ||
			r.Delivered.Duration < 10*time.Second || r.Delivered.Duration > 12*time.Second || r.End != endDeadline {
			t.Errorf("the report is %+v", r)
		}
		if len(w.happened()) != 2 || !strings.HasPrefix(w.happened()[0], "DrillBegan: ") || !strings.HasSuffix(w.happened()[1], "nothing broke") {
			t.Errorf("events %q", w.happened())
		}
		w.with(func() { w.node.Order = "" })
		if s := w.said(); s.Phase != "" {
			t.Errorf("without an order the node says %+v", s)
		}
	})
}

// The agent is killed during the cut, twice: the gate of each next one is shut from its beginning on, and opens at the deadline.
func TestADrillOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		kill := w.start()
		w.order()
		end := time.Now().Add(10 * time.Minute)
		w.with(func() { w.updates = 5; w.cut = true })
		pass(3 * time.Minute)
		kill()
		pass(time.Minute)
		kill = w.start()
		changed, why := w.drill.Gate().State()
		synctest.Wait()
		if !w.shut() {
			t.Error("the gate of the second agent is open during the cut")
		}
		select {
		case <-changed:
		default:
			t.Errorf("who waits at the gate goes on believing that %v", why)
		}
		w.with(func() { w.pods = []corev1.Pod{aPod("web", restarted)}; w.updates = 7 })
		pass(3 * time.Minute)
		kill()
		kill = w.start()
		pass(time.Until(end) - time.Second)
		if !w.shut() {
			t.Error("the gate opened before the deadline")
		}
		pass(2 * time.Second)
		if w.shut() {
			t.Error("the gate is shut after the deadline")
		}
		kill() // and once more before there is a link again
		kill = w.start()
		pass(time.Hour)
		w.with(func() { w.cut = false })
		pass(time.Second)
		r := w.said().Report
		if r == nil || r.Starts != 2 || r.DeviceUpdates < 5 || len(r.Broke) != 2 || !strings.Contains(r.Broke[0], "app of pod shop/web was restarted") || !strings.Contains(r.Broke[1], "edgecore started 2 times") {
			t.Errorf("the report is %+v", r)
		}
		said := w.shown().State
		kill()
		defer w.start()()
		pass(time.Second)
		if w.shown().State != said {
			t.Errorf("after a restart the node says %s, said %s before", w.shown().State, said)
		}
		if r != nil && (r.Linked.Duration < time.Hour || r.Ended.Sub(r.Began) != 10*time.Minute) {
			t.Errorf("it says that it took %s, and %s to the link", r.Ended.Sub(r.Began), r.Linked.Duration)
		}
	})
}

func TestThePowerCutIsOnTheDiskBeforeItHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.order(func(o *drill.Order) { o.Power = true })
		w.with(func() { w.updates = 9 })
		pass(5*time.Minute - 2*time.Second)
		if len(w.powerCuts()) != 0 {
			t.Fatal("the agent was killed before the middle")
		}
		pass(3 * time.Second)
		if len(w.powerCuts()) != 1 || !strings.Contains(string(w.powerCuts()[0][keyNote]), `"powered":true`) {
			t.Fatalf("the power was cut with these on the disk: %q", w.powerCuts())
		}
		defer w.start()()
		pass(6 * time.Minute)
		r := w.said().Report
		if len(w.powerCuts()) != 1 || r == nil || !r.Power || r.Starts != 1 || len(r.Broke) != 0 || r.DeviceUpdates != 9 {
			t.Errorf("killed %d times, the report is %+v: expected once, 9 updates before it, and that nothing broke", len(w.powerCuts()), r)
		}
	})
}

// A cut that the disk does not know would begin without an end.
func TestNothingIsCutThatTheDiskDoesNotKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.start()()
		synctest.Wait()
		w.with(func() { w.full = errors.New("disk full") })
		o := drill.Order{ID: "a1", For: metav1.Duration{Duration: time.Minute}, Issued: time.Now()}
		w.with(func() { w.node.Order = o.Text() })
		for range 200 {
			if pass(time.Second); w.shut() {
				t.Fatal("the link was cut")
			}
		}
		if s := w.said(); s.Phase != drill.CalledOff || !strings.Contains(s.Why, "disk full") {
			t.Errorf("the node says %+v, expected to call it off and why", s)
		}
	})
}

// A disk that fills up during the cut keeps nobody from its end.
func TestAFullDiskEndsNoLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.start()()
		w.order()
		w.with(func() { w.full = errors.New("disk full") })
		pass(10*time.Minute + 2*time.Second)
		if s := w.said(); w.shut() || s.Phase != drill.Done {
			t.Errorf("shut %v, the node says %+v: expected the end", w.shut(), s)
		}
	})
}

func TestWhatCannotBeReadIsNoDrill(t *testing.T) {
	for key, text := range map[string]string{keyNote: `{"phase":`, keyReport: `[]`, keyRecord: `7`} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.disk[key] = []byte(text)
			defer w.start()()
			pass(time.Second)
			if w.shut() {
				t.Errorf("with %s %s on the disk the gate is shut", key, text)
			}
		})
	}
}

// The local API is asked every few seconds, and what it does not answer is said.
func TestALocalAPIThatIsSilentIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.start()()
		w.order()
		w.with(func() { w.silent = true })
		pass(time.Minute)
		w.with(func() { w.silent = false; w.lost = 4 })
		pass(10 * time.Minute)
		r := w.said().Report
		if r == nil || r.Unanswered < 20 || r.Unanswered > 31 || len(r.Broke) != 2 || r.Lost != 4 {
			t.Errorf("the report is %+v, expected about 30 reads without an answer and 4 lost messages", r)
		}
	})
}

func TestSomebodyAtTheNodeStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.start()()
		w.order()
		pass(time.Minute)
		w.with(func() { w.node.Stop = "a1" })
		pass(2 * time.Second)
		if s := w.said(); w.shut() || s.Phase != drill.Done || s.Report.End != endStopped || w.shown().Stop != "" {
			t.Errorf("shut %v, the node says %+v, stop %q: expected the end", w.shut(), s, w.shown().Stop)
		}
	})
}

func TestWhatRunsWhileTheGateIsOpenEndsWhenItIsShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		begun, running := 0, 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- g.While(func(ctx context.Context) error {
				begun++
				running++
				<-ctx.Done()
				running--
				return errors.New("cut off")
			})(ctx)
		}()
		for i, step := range []struct {
			why            error
			begun, running int
		}{{errStarting, 0, 0}, {nil, 1, 1}, {drill.ErrCut, 1, 0}, {drill.ErrCut, 1, 0}, {nil, 2, 1}} {
			g.set(step.why)
			synctest.Wait()
			if begun != step.begun || running != step.running {
				t.Errorf("step %d: begun %d times, %d run: expected %d and %d", i, begun, running, step.begun, step.running)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ended with %v, expected no error at the end of its context", err)
		}
		broken := errors.New("broken")
		if err := g.While(func(context.Context) error { return broken })(t.Context()); !errors.Is(err, broken) {
			t.Errorf("%v, expected what it returned by itself", err)
		}
	})
}
