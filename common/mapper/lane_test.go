package mapper

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// broker is a target of pushes by MQTT. It is reached at once, never, or after some time.
type broker struct {
	mu     sync.Mutex
	away   map[string]bool // by address
	hangs  map[string]bool
	slow   time.Duration // of one push
	made   int
	closed int
	got    map[string][]string // by property
}

func newBroker() *broker {
	return &broker{away: map[string]bool{}, hangs: map[string]bool{}, got: map[string][]string{}}
}

func (b *broker) set(in map[string]bool, address string, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	in[address] = is
}

type toBroker struct {
	b       *broker
	address string
}

func (b *broker) push(m *dmi.PushMethod) (Push, error) {
	b.made++
	return toBroker{b, m.GetMqtt().GetAddress()}, nil
}

func (p toBroker) Push(ctx context.Context, s Sample) error {
	p.b.mu.Lock()
	away, hangs := p.b.away[p.address], p.b.hangs[p.address]
	p.b.mu.Unlock()
	if away {
		return fmt.Errorf("%w: not connected", ErrAway)
	}
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(p.b.slow)
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	p.b.got[s.Property] = append(p.b.got[s.Property], s.Value)
	return nil
}

func (p toBroker) Close() error {
	p.b.closed++
	return nil
}

// pusher is a worker of one device that pushes to b, and is read by hand.
func pusher(t *testing.T, b *broker, log *slog.Logger, cycle time.Duration, addresses ...string) (w *worker, read func()) {
	ctx, cancel := context.WithCancel(t.Context())
	h := &host{ctx: ctx, Options: Options{Log: log, Timeout: 5 * time.Second, Push: map[string]NewPush{"mqtt": b.push}}}
	w = newWorker(h, "plant/pump")
	w.set(addressed(cycle, addresses...), false)
	w.take()
	w.driver = &counter{}
	t.Cleanup(cancel)
	return w, func() {
		for _, p := range w.now.Properties {
			if err := w.read(p, w.values[p.Name]); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
	}
}

// addressed is a device with a property for each address to push to.
func addressed(cycle time.Duration, addresses ...string) Device {
	d := Device{Namespace: "plant", Name: "pump"}
	for i, a := range addresses {
		d.Properties = append(d.Properties, Property{Name: fmt.Sprint("p", i), Report: cycle, push: &dmi.PushMethod{Mqtt: &dmi.PushMethodMQTT{Address: a}}})
	}
	return d
}

func TestATargetThatIsDeadHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		b.hangs["dead"] = true
		w, read := pusher(t, b, slog.New(slog.DiscardHandler), 0, "dead", "live")
		for range 30 {
			read()
			time.Sleep(time.Second)
		}
		w.push.end(w.log)
		if n := len(b.got["p1"]); n != 30 {
			t.Errorf("%d of 30 values arrived where somebody is", n)
		}
	})
}

func TestWhatComesFasterThanItIsPushedIsTheNewestOfEachProperty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newBroker()
		b.slow = 10 * time.Millisecond
		const many = 500
		w, read := pusher(t, b, slog.New(slog.NewTextHandler(&log, nil)), 0, slices.Repeat([]string{"one"}, many)...)
		const rounds = 10
		for range rounds {
			read()
			time.Sleep(2 * time.Second) // for 200 pushes
		}
		time.Sleep(many * b.slow)
		synctest.Wait()
		w.push.end(w.log)
		for i, p := range w.now.Properties {
			got := b.got[p.Name]
			if len(got) < 2 || got[len(got)-1] != fmt.Sprint((rounds-1)*many+i+1) {
				t.Fatalf("of %s arrived %v, expected the last one, and some before", p.Name, got)
			}
		}
		if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
			t.Errorf("%d lines of log, expected one: %s", n, log.String())
		}
	})
}

func TestTheFirstPushWaitsForItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newBroker()
		b.away["one"] = true
		w, read := pusher(t, b, slog.New(slog.NewTextHandler(&log, nil)), time.Minute, "one")
		read()
		time.Sleep(time.Second / 4)
		b.set(b.away, "one", false)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := b.got["p0"]; !slices.Equal(got, []string{"1"}) {
			t.Errorf("pushed are %v, expected the first reading", got)
		}
		if log.Len() > 0 {
			t.Errorf("that a client takes its time to connect is no news: %s", log.String())
		}
		w.push.end(w.log)
	})
}

func TestATargetThatIsAwayIsLoggedOnceAndGetsTheNewestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newBroker()
		b.away["one"] = true
		w, read := pusher(t, b, slog.New(slog.NewTextHandler(&log, nil)), 0, "one", "one")
		for range 30 {
			read()
			time.Sleep(time.Second)
		}
		b.set(b.away, "one", false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !slices.Equal(b.got["p0"], []string{"59"}) || !slices.Equal(b.got["p1"], []string{"60"}) {
			t.Errorf("pushed are %v, expected the newest of each", b.got)
		}
		for _, line := range []string{"cannot push values; trying again", "there is somebody again"} {
			if n := bytes.Count(log.Bytes(), []byte(line)); n != 1 {
				t.Errorf("%q was logged %d times: %s", line, n, log.String())
			}
		}
		w.push.end(w.log)
	})
}

func TestAChangedDeviceLosesNoPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		w, read := pusher(t, b, slog.New(slog.DiscardHandler), time.Minute, "one", "two")
		read()
		if b.made != 2 {
			t.Fatalf("%d clients", b.made)
		}
		change := func(d Device) {
			w.set(d, false)
			w.take()
		}
		d := addressed(time.Minute, "one", "two")
		d.Properties[0].Desired = "4"
		change(d)
		read()
		if b.made != 2 || b.closed != 0 {
			t.Errorf("for another desired value there are %d clients, of which %d ended", b.made, b.closed)
		}
		time.Sleep(time.Minute)
		b.set(b.away, "one", true)
		read() // the value for one waits
		change(addressed(time.Minute, "one", "three"))
		b.set(b.away, "one", false)
		read()
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []string{"1", "7"}; !slices.Equal(b.got["p0"], want) {
			t.Errorf("of p0 arrived %v, expected %v", b.got["p0"], want)
		}
		if want := []string{"2", "6", "8"}; !slices.Equal(b.got["p1"], want) {
			t.Errorf("of p1, which has another target now, arrived %v, expected %v", b.got["p1"], want)
		}
		if b.closed != 2 {
			t.Errorf("%d of the former 2 clients ended", b.closed)
		}
		w.push.end(w.log)
	})
}
