package device

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails = func(string) error { return err }
}

func TestAReportIsFinalOnlyOnceTheAPIServerTookItOrNeverWill(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no answer":       {errors.New("connection refused"), "0 false ServiceUnavailable"},
		"a late answer":   {fmt.Errorf("patch: %w", context.DeadlineExceeded), "0 false Timeout"},
		"a fault":         {apierrors.NewInternalError(errors.New("x")), "500 false InternalError"},
		"too many":        {apierrors.NewTooManyRequests("x", 7), "429 false TooManyRequests"},
		"missing rights":  {apierrors.NewForbidden(statusResource, "pump", errors.New("x")), "403 false Forbidden"},
		"no credentials":  {apierrors.NewUnauthorized("x"), "401 false Unauthorized"},
		"conflicts":       {apierrors.NewConflict(statusResource, "pump", errors.New("x")), "409 false Conflict"},
		"invalid content": {apierrors.NewInvalid(schema.GroupKind{Kind: "DeviceStatus"}, "pump", nil), "422 true Invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
				d := w.add(t, "pump", "edge-1")
				w.fail(c.err)
				r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("45"))
				if outcome(r) != c.want || r.Final != (r.RetryAfterMs == 0) {
					t.Errorf("got %v, expected %s", r, c.want)
				}
				if name == "too many" && r.RetryAfterMs != 7000 {
					t.Errorf("the API server's own delay became %d ms", r.RetryAfterMs)
				}
				w.fail(nil)
				say(t, all[0], "edge-1", d, "45")
			})
		})
	}
}

// Without any report, what is to be said is tried until it is.
func TestAJudgementIsTriedUntilItIsWritten(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, _ []*Controller) {
		w.fail(errors.New("connection refused"))
		w.put(newDevice("pump", "edge-1"))
		time.Sleep(time.Minute)
		if n, _ := w.written(); n < 5 || n > 20 {
			t.Errorf("%d tries in a minute, expected fewer and fewer", n)
		}
		w.fail(nil)
		eventually(t, "the status to be there", func() bool { _, err := w.Status(t.Context(), named("pump")); return err == nil })
	})
}

func TestAReportWaitsSoLongAndIsWrittenAllTheSame(t *testing.T) {
	run(t, 1, Config{DeviceRate: 0.01, DeviceBurst: 1, MaxWait: 5 * time.Second}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1") // takes the token
		start := time.Now()
		r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("45"))
		if outcome(r) != "503 false Timeout" || r.RetryAfterMs == 0 || time.Since(start) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), r)
		}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		if r := all[0].Report(ctx, "edge-1", named("pump"), string(d.UID), body("46")); r.Final {
			t.Errorf("a session that ended hears %v", r)
		}
		// One that has ended before takes no place.
		if r := all[0].Report(ctx, "edge-1", named("pump"), string(d.UID), body("45")); r.Final {
			t.Errorf("a session that ended hears %v", r)
		}
		time.Sleep(2 * time.Minute)
		if got := value(w.status(t, "pump")); got != "46" {
			t.Errorf("the value is %s", got)
		}
		w.written()
		time.Sleep(2 * time.Minute)
		say(t, all[0], "edge-1", d, "46")
		if n, _ := w.written(); n > 0 {
			t.Errorf("what was written is written again")
		}
	})
}

// A report that waits while its device moves, is made anew or goes is not written.
func TestAReportWaitsForTheDeviceThatItCameFor(t *testing.T) {
	for name, change := range map[string]func(w *world, d *v1beta1.Device){
		"moves":        func(w *world, d *v1beta1.Device) { d.Spec.NodeName = "edge-2"; w.put(d) },
		"is made anew": func(w *world, d *v1beta1.Device) { d.UID = "uid-0"; w.put(d) },
		"goes":         func(w *world, d *v1beta1.Device) { w.remove(keyOf(d)) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, Config{DeviceBurst: 1}, func(t *testing.T, w *world, all []*Controller) {
				d := w.add(t, "pump", "edge-1")
				uid := string(d.UID)
				time.AfterFunc(10*time.Millisecond, func() { change(w, d) })
				if r := all[0].Report(t.Context(), "edge-1", named("pump"), uid, body("45")); outcome(r) != "409 false Conflict" {
					t.Errorf("got %v", r)
				}
				time.Sleep(time.Minute)
				if s, err := w.Status(t.Context(), named("pump")); err == nil && value(s) != "" {
					t.Errorf("it was written: %+v", s)
				}
			})
		})
	}
}

// The cache is behind the CloudCore's own writes, and then behind another's.
func TestACacheThatIsBehindCostsAReadAndLosesNothing(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		w.stopCache()
		say(t, all[0], "edge-1", d, "45")
		say(t, all[0], "edge-1", d, "46")
		if n, _ := w.written(); n != 2 {
			t.Errorf("%d writes for two reports: the first's outcome was forgotten", n)
		}
		s := w.status(t, "pump")
		s.Labels = map[string]string{"site": "north"}
		w.put(s)
		say(t, all[0], "edge-1", d, "47")
		if s = w.status(t, "pump"); value(s) != "47" || s.Labels["site"] != "north" {
			t.Errorf("got %+v", s)
		}
		// It is deleted, which the cache has not heard when the next report comes.
		w.remove(keyOf(s))
		say(t, all[0], "edge-1", d, "48")
		if got := w.status(t, "pump"); value(got) != "48" || got.UID == s.UID {
			t.Errorf("got %+v", got)
		}
		// It is deleted again, and the cache hears of all at once.
		w.remove(keyOf(s))
		w.startCache()
		eventually(t, "it is made again", func() bool {
			s, err := w.Status(t.Context(), named("pump"))
			return err == nil && value(s) == "48"
		})
	})
}

func TestAPanicCostsOneDeviceAMinute(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		w.mu.Lock()
		w.fails = func(string) error { panic("a defect") }
		w.mu.Unlock()
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("45")); outcome(r) != "500 false InternalError" || r.RetryAfterMs != 60_000 {
			t.Errorf("got %v", r)
		}
		w.fail(nil)
		say(t, all[0], "edge-1", d, "46")
	})
}

func TestTwoCloudCoresSettle(t *testing.T) {
	run(t, 2, Config{}, func(t *testing.T, w *world, all []*Controller) {
		var ds []*v1beta1.Device
		for i := range 50 {
			ds = append(ds, newDevice(fmt.Sprintf("pump-%d", i), "edge-1"))
			w.put(ds[i])
		}
		time.Sleep(10 * time.Second)
		n, _ := w.written()
		if n > 2*len(ds) {
			t.Errorf("%d writes to make %d statuses by two", n, len(ds))
		}
		for i, d := range ds {
			say(t, all[i%2], "edge-1", d, "45")
		}
		w.put(newModel("44"))
		time.Sleep(10 * time.Second)
		if n, _ := w.written(); n > 4*len(ds) {
			t.Errorf("%d writes for a report and a judgement of %d devices", n, len(ds))
		}
		for _, d := range ds {
			if s := w.status(t, d.Name); value(s) != "45" || condition(s, "Ready") != "False ValueOutOfRange" {
				t.Errorf("%s: %+v", d.Name, s.Status)
			}
		}
		time.Sleep(time.Hour)
		if n, _ := w.written(); n > 0 {
			t.Errorf("%d writes in an hour in which nothing changed", n)
		}
	})
}

// An edge went from one CloudCore to another while the first had a report of it that could not be written.
func TestAReportThatWasStuckDoesNotPassTheNewerOneOfAnotherCloudCore(t *testing.T) {
	run(t, 2, Config{DeviceBurst: 1, DeviceRate: 0.1}, func(t *testing.T, w *world, all []*Controller) {
		d := newDevice("pump", "edge-1")
		w.put(d)
		time.Sleep(time.Minute)
		say(t, all[0], "edge-1", d, "1") // takes its token
		stuck := make(chan string, 1)
		go func() {
			stuck <- outcome(all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("2")))
		}()
		synctest.Wait()
		say(t, all[1], "edge-1", d, "3")
		if got := <-stuck; got != "409 false Conflict" {
			t.Errorf("the stuck report is answered %s", got)
		}
		if got := value(w.status(t, "pump")); got != "3" {
			t.Errorf("the value is %s", got)
		}
		time.Sleep(time.Minute)
		say(t, all[0], "edge-1", d, "4") // a new one of its session is taken
	})
}

// What the cache has is what the edge said before it was with another CloudCore.
func TestNothingIsAcknowledgedOnTheWordOfACache(t *testing.T) {
	run(t, 2, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "1")
		w.stopCache()
		say(t, all[1], "edge-1", d, "2")
		for range 3 { // as an edge does
			if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("1")); r.Final {
				break
			}
		}
		if got := value(w.status(t, "pump")); got != "1" {
			t.Errorf("the report is acknowledged, and the value is %s", got)
		}
	})
}

// What this CloudCore wrote itself while a report came is nobody else's.
func TestAReportThatCameDuringAWriteFollowsIt(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		r, refused := parse(body("46"), string(d.UID))
		if refused != nil {
			t.Fatal(refused)
		}
		p, err := all[0].pending(named("pump"), "edge-1", r)
		if err != nil {
			t.Fatal(err)
		}
		say(t, all[0], "edge-1", d, "45")
		all[0].put(named("pump"), p)
		all[0].queue.Add(named("pump"))
		if r := <-p.answer; r.Code != http.StatusOK {
			t.Errorf("got %v", r)
		}
	})
}

// Another release of CloudCore has other words for the same, and both insist.
func TestAContestSlowsDown(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		w.written()
		w.mu.Lock()
		w.follow[100] = func(keys []object.Key) {
			if keys[0].Kind != object.DeviceStatuses {
				return
			}
			s, err := w.Status(t.Context(), named("pump"))
			if err != nil {
				t.Error(err)
				return
			}
			if i := indexOf(s.Status.Conditions, "Ready"); s.Status.Conditions[i].Message != "other words" {
				s.Status.Conditions[i].Message = "other words"
				w.put(s)
			}
		}
		w.mu.Unlock()
		w.tell(keyOf(w.status(t, "pump")))
		time.Sleep(time.Hour)
		if n, _ := w.written(); n < 3 || n > 30 {
			t.Errorf("%d writes in an hour, expected fewer and fewer", n)
		}
		start := time.Now()
		if r := all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body("46")); r.Code != http.StatusOK || time.Since(start) > time.Second {
			t.Errorf("meanwhile a report is answered after %v: %v", time.Since(start), r)
		}
		// What is new is said at once.
		w.put(newModel("44"))
		synctest.Wait()
		if got := condition(w.status(t, "pump"), "Ready"); got != "False ValueOutOfRange" {
			t.Errorf("Ready is %s", got)
		}
	})
}

// A report that comes while its device is forgotten is answered, or waits where it is found.
func TestNoReportIsLostToADeviceThatGoes(t *testing.T) {
	c := &Controller{entries: map[types.NamespacedName]*entry{}, index: newIndex(), m: newMetrics(prometheus.NewRegistry(), func() float64 { return 0 }, func(string) float64 { return 0 })}
	key := named("pump")
	var all []*pending
	done := make(chan struct{})
	var forgetting sync.WaitGroup
	for range 2 {
		forgetting.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					c.forget(key)
				}
			}
		})
	}
	for range 50000 {
		p := &pending{answer: make(chan *wire.Result, 1)}
		c.put(key, p)
		all = append(all, p)
	}
	close(done)
	forgetting.Wait()
	c.forget(key)
	for _, p := range all {
		if len(p.answer) == 0 {
			t.Fatal("a report waits where nobody finds it")
		}
	}
}
