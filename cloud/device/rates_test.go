package device

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/wire"
)

// A report every 10 ms for ten seconds costs 5 writes a second, and the last one is there.
func TestTheLastReportOfAFloodArrivesAtTheRateOfADevice(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		time.Sleep(time.Minute) // so that the bucket is full
		const reports = 1000
		results := make([]*wire.Result, reports)
		var calls sync.WaitGroup
		for i := range reports {
			calls.Go(func() {
				results[i] = all[0].Report(t.Context(), "edge-1", named("pump"), string(d.UID), body(fmt.Sprint(i)))
			})
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		calls.Wait()
		if got := value(w.status(t, "pump")); got != fmt.Sprint(reports-1) {
			t.Errorf("the last value is %s", got)
		}
		if n, _ := w.written(); n < 50 || n > 56 {
			t.Errorf("%d writes in 10 s, expected 5 at once and 5 a second", n)
		}
		final := 0
		for i, r := range results {
			switch {
			case r.Code == http.StatusOK && r.Final:
				final++
			case outcome(r) != "503 false Superseded" || r.RetryAfterMs == 0:
				t.Fatalf("report %d is answered %v", i, r)
			}
		}
		if !results[reports-1].Final || final < 50 || final > 56 {
			t.Errorf("%d reports are acknowledged, the last one as %v: expected those that were written", final, results[reports-1])
		}
	})
}

// Together they keep to the rate of all, and each has its share of it, whoever else floods.
func TestDevicesThatFloodShareTheRateOfAll(t *testing.T) {
	run(t, 1, Config{ClusterRate: 100, ClusterBurst: 100}, func(t *testing.T, w *world, all []*Controller) {
		const devices = 50
		var ds []*v1beta1.Device
		for i := range devices {
			ds = append(ds, w.add(t, fmt.Sprintf("pump-%d", i), "edge-1"))
		}
		time.Sleep(time.Minute)
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		var floods sync.WaitGroup
		for _, d := range ds {
			floods.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					all[0].Report(ctx, "edge-1", named(d.Name), string(d.UID), body(fmt.Sprint(i)))
				}
			})
		}
		time.Sleep(10 * time.Second)
		quiet := w.add(t, "quiet", "edge-2")
		start := time.Now()
		say(t, all[0], "edge-2", quiet, "1")
		if took := time.Since(start); took > time.Second {
			t.Errorf("the report of a quiet device took %v", took)
		}
		start = time.Now()
		w.put(newDevice("new", "edge-2"))
		eventually(t, "a new device has a status", func() bool { _, err := w.Status(ctx, named("new")); return err == nil })
		if took := time.Since(start); took > time.Second {
			t.Errorf("the status of a new device took %v", took)
		}
		w.written()
		start = time.Now()
		<-ctx.Done()
		n, by := w.written()
		if rate := float64(n) / time.Since(start).Seconds(); rate < 90 || rate > 110 {
			t.Errorf("%.0f writes a second, expected about 100", rate)
		}
		for _, d := range ds {
			if got := by[named(d.Name).String()]; got < n/devices-5 || got > n/devices+5 {
				t.Errorf("%s had %d writes of %d, expected a fiftieth", d.Name, got, n)
			}
		}
		floods.Wait()
	})
}

func TestAModelOfAThousandDevicesHoldsUpNoReport(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		const devices = 1000
		for i := range devices {
			w.put(newDevice(fmt.Sprintf("pump-%d", i), "edge-1"))
		}
		d := newDevice("quiet", "edge-2")
		d.Spec.DeviceModelRef.Name = "other" // so that it is not judged with them
		w.put(d)
		time.Sleep(time.Minute)
		w.written()
		w.put(newModel("44"))
		synctest.Wait()
		start := time.Now()
		say(t, all[0], "edge-2", d, "45")
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("the report of one device took %v while the others are judged", took)
		}
		judged := func() (n int) {
			for i := range devices {
				if condition(w.status(t, fmt.Sprintf("pump-%d", i)), "Ready") == "False ValueOutOfRange" {
					n++
				}
			}
			return n
		}
		time.Sleep(3 * time.Second)
		if n := judged(); n < 450 || n > 550 {
			t.Errorf("%d devices are judged after 3 s, expected 200 at once and 100 a second", n)
		}
		// One of them that waits to be judged does not wait for that with a report.
		late := ""
		for i := range devices {
			if name := fmt.Sprintf("pump-%d", i); condition(w.status(t, name), "Ready") != "False ValueOutOfRange" {
				late = name
			}
		}
		start = time.Now()
		o, _ := w.Object(keyOf(newDevice(late, "")))
		say(t, all[0], "edge-1", o.(*v1beta1.Device), "45")
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("the report of a device that waits to be judged took %v", took)
		}
		start = time.Now()
		eventually(t, "all devices to be judged", func() bool { return judged() == devices })
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("the others are judged %v later, expected 100 a second", took)
		}
		if n, _ := w.written(); n != devices+1 {
			t.Errorf("%d writes for %d devices", n, devices+1)
		}
	})
}

func TestWhatChangesNothingCostsNoWrite(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		w.written()
		for range 100 {
			say(t, all[0], "edge-1", d, "45")
		}
		w.put(d)
		w.put(newModel("60"))
		w.put(newNode("edge-1", "tether://edge-1", "True"))
		synctest.Wait()
		if n, _ := w.written(); n > 0 {
			t.Errorf("%d writes of what is there", n)
		}
	})
}

// Two reports at once are one write, as far as their device has to wait.
func TestChangesAtOnceAreOneWrite(t *testing.T) {
	run(t, 1, Config{DeviceBurst: 1}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		d.Generation++
		w.put(newModel("44"))
		w.put(d)
		say(t, all[0], "edge-1", d, "45")
		s := w.status(t, "pump")
		if n, _ := w.written(); n != 1 || value(s) != "45" || condition(s, "Ready") != "False ValueOutOfRange" {
			t.Errorf("%d writes gave %+v, expected one", n, s.Status)
		}
	})
}
