package methods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/twin"
)

const both = `{"setpoint": 50, "fan": true}`

func TestACallAnswersOnceTheDeviceHasWhatItDesires(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "heat", "", "", both)
	w.desires("b1 setpoint=50", "b1 fan=true")
	w.report("b1", "setpoint", "50", "50", "flow", "1", "")
	w.report("b1", "fan", "false", "true")
	w.waits("b1")
	w.report("b1", "fan", "1", "true") // the same value, written in another way
	r := w.gets(c, http.StatusOK, "")
	if p := r.Properties; len(p) != 2 || p["setpoint"].Written != "50" || *p["setpoint"].Reported != "50" || p["fan"].Written != "true" || *p["fan"].Reported != "1" || r.Call == "" {
		t.Errorf("answered with %+v", r.answer)
	}
	if n := w.metric("call_seconds"); n != 1 {
		t.Errorf("%v calls were timed", n)
	}
	eventually(t, "no call is left", func() error {
		if n := w.metric("calls") + w.metric("keys"); n != 0 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	if len(w.notes) != 0 {
		t.Errorf("a call without a key is remembered: %v", w.notes)
	}
}

// A report may be on its way since before the call, or come before the mapper's answer that it took what is desired.
func TestAReportCountsOnlyForWhatItWasMadeFor(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "set", "", "", `{"setpoint": 40}`)
	w.desires("b1 setpoint=40")
	w.report("b1", "setpoint", "40", "") // nobody told the mapper yet
	w.report("b1", "setpoint", "40", "50")
	w.given("b1", "setpoint", "50", w.calls("b1", "setpoint"))
	w.report("b1", "setpoint", "40", "")
	w.waits("b1")
	w.given("b1", "setpoint", "40", w.calls("b1", "setpoint"))
	w.report("b1", "setpoint", "40", "50")
	w.waits("b1")
	w.report("b1", "setpoint", "40", "")
	w.gets(c, http.StatusOK, "")
	c = w.posting("b1", "set", "", "", `{"setpoint": "41"}`)
	w.desires("b1 setpoint=40", "b1 setpoint=41")
	w.report("b1", "setpoint", "41", "+41")
	w.gets(c, http.StatusOK, "")
}

// The same was desired before, by the cloud or by another call: what comes of that says nothing of this call.
func TestAReportOfTheSameThatWasDesiredBeforeDoesNotCount(t *testing.T) {
	w := newWorld(t)
	a := w.posting("b1", "set", "", "", `{"setpoint": 40}`)
	w.desires("b1 setpoint=40")
	before := w.calls("b1", "setpoint")
	w.report("b1", "setpoint", "40", "40")
	w.gets(a, http.StatusOK, "")
	b := w.posting("b1", "set", "", "k", `{"setpoint": 40}`)
	w.desires("b1 setpoint=40", "b1 setpoint=40")
	late := func() {
		t.Helper()
		w.report("b1", "setpoint", "40", "40#"+before)
		w.report("b1", "setpoint", "40", "40#") // a mapper that names no call, and was not told
		w.given("b1", "setpoint", "40", before)
		w.report("b1", "setpoint", "40", "40#")
		w.given("b1", "setpoint", "40", "")
		w.report("b1", "setpoint", "40", "40#")
		w.report("b1", "setpoint", "40", "")
		w.waits("b1")
	}
	late()
	w.restart()
	w.gets(b, http.StatusServiceUnavailable, "stopping")
	late()
	w.given("b1", "setpoint", "40", w.calls("b1", "setpoint"))
	w.report("b1", "setpoint", "40", "40#"+before)
	w.waits("b1")
	w.report("b1", "setpoint", "40", "40#")
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 40}`), http.StatusOK, "")
}

// The same is desired again while a call waits: what comes of that is what it waits for, and the mapper hears of nothing else.
func TestAReportOfTheSameThatIsDesiredSinceCounts(t *testing.T) {
	w := newWorld(t)
	for _, restart := range []bool{false, true} {
		for _, names := range []bool{false, true} { // the mapper names the call
			key := fmt.Sprint(restart, names)
			first := w.late("b1", "set", key, `{"setpoint": 40}`)
			second := w.late("b1", "set", "", `{"setpoint": 40}`)
			if now := w.calls("b1", "setpoint"); now != second.Call || now == first.Call {
				t.Fatalf("call %s desires it, expected %s", now, second.Call)
			}
			if restart {
				w.restart()
			}
			if names {
				w.report("b1", "setpoint", "40", "40#"+second.Call)
			} else {
				w.given("b1", "setpoint", "40", second.Call)
				w.report("b1", "setpoint", "40", "40#")
			}
			w.is(w.post("b1", "set", "", key, `{"setpoint": 40}`), http.StatusOK, "")
		}
	}
}

func TestACallThatIsNotReadBackInTimeGoesOn(t *testing.T) {
	w := newWorld(t)
	r := w.late("b1", "set", "k", `{"setpoint": 50}`)
	w.is(r, http.StatusGatewayTimeout, "waits on and writes nothing")
	if p := r.Properties["setpoint"]; p.Written != "50" || p.Reported != nil {
		t.Errorf("answered with %+v", r.answer)
	}
	w.report("b1", "setpoint", "30", "50")
	r = w.post("b1", "set", "?timeout=20ms", "k", `{"setpoint": 50}`)
	w.is(r, http.StatusGatewayTimeout, "")
	if p := r.Properties["setpoint"]; p.Reported == nil || *p.Reported != "30" {
		t.Errorf("answered with %+v", r.answer)
	}
	again := w.posting("b1", "set", "", "k", `{"setpoint": 50}`)
	w.report("b1", "setpoint", "50", "50")
	w.gets(again, http.StatusOK, "")
	w.desires("b1 setpoint=50")
	// Without a key it cannot be asked for again, and is a call of its own.
	w.late("b1", "set", "", `{"setpoint": 50}`)
	eventually(t, "nobody to look for its reports", func() error {
		d := w.plant.server.desk
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := len(d.pending); n != 0 {
			return fmt.Errorf("%d devices have calls", n)
		}
		return nil
	})
	w.desires("b1 setpoint=50", "b1 setpoint=50")
}

func TestTheSameKeyIsOneCall(t *testing.T) {
	w := newWorld(t)
	w.users.desire["ann plant/b1"] = true
	var all []<-chan reply
	for range 5 {
		all = append(all, w.posting("b1", "heat", "", "k", both))
	}
	w.desires("b1 setpoint=50", "b1 fan=true")
	w.report("b1", "setpoint", "50", "50", "fan", "true", "true")
	call := ""
	for _, c := range all {
		r := w.gets(c, http.StatusOK, "")
		if call == "" {
			call = r.Call
		}
		if r.Call != call {
			t.Errorf("calls %s and %s have one key", call, r.Call)
		}
	}
	w.cloud("b1", "setpoint", "60")
	r := w.post("b1", "heat", "", "k", `{"fan": true, "setpoint": "50"}`)
	w.is(r, http.StatusOK, "")
	if r.Call != call || r.header.Get("Idempotency-Replayed") != "true" || *r.Properties["setpoint"].Reported != "50" || w.metric("replayed_total") < 1 {
		t.Errorf("replayed as %+v with %v", r.answer, r.header)
	}
	w.is(w.post("b1", "heat", "", "k", `{"setpoint": 51, "fan": true}`), http.StatusUnprocessableEntity, "another call")
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 50}`), http.StatusUnprocessableEntity, "another call")
	w.desires("b1 setpoint=50", "b1 fan=true")
	// The key is ann's own, and this one that of another device.
	w.late("b1", "set", "k", `{"setpoint": 1}`, "user", "ann:ann")
	w.late("b2", "set", "k", `{"setpoint": 2}`)
	w.desires("b1 setpoint=50", "b1 fan=true", "b1 setpoint=1", "b2 setpoint=2")
}

func TestAKeyOutlivesARestart(t *testing.T) {
	w := newWorld(t)
	done := w.posting("b1", "set", "", "done", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	w.report("b1", "setpoint", "1", "1")
	call := w.gets(done, http.StatusOK, "").Call
	cut := w.posting("b1", "heat", "", "cut", both)
	w.desires("b1 setpoint=1", "b1 setpoint=50", "b1 fan=true")
	w.report("b1", "fan", "true", "true")
	replaced := w.posting("b2", "set", "", "replaced", `{"setpoint": 3}`)
	w.desires("b1 setpoint=1", "b1 setpoint=50", "b1 fan=true", "b2 setpoint=3")
	w.restart()
	w.gets(cut, http.StatusServiceUnavailable, "stopping")
	w.gets(replaced, http.StatusServiceUnavailable, "stopping")
	if r := w.post("b1", "set", "", "done", `{"setpoint": 1}`); r.Call != call || r.Code != http.StatusOK || *r.Properties["setpoint"].Reported != "1" {
		t.Errorf("replayed as %+v, %v", r.answer, r.err)
	}
	w.cloud("b2", "setpoint", "60")
	w.is(w.post("b2", "set", "", "replaced", `{"setpoint": 3}`), http.StatusConflict, `"60" is desired now`)
	// The fan was read back before.
	cut = w.posting("b1", "heat", "", "cut", both)
	w.report("b1", "setpoint", "50", "50")
	w.gets(cut, http.StatusOK, "")
	w.restart()
	w.is(w.post("b1", "heat", "", "cut", both), http.StatusOK, "")
	w.cloud("b2", "setpoint", "3") // the outcome that was told stays
	w.is(w.post("b2", "set", "", "replaced", `{"setpoint": 3}`), http.StatusConflict, `"60" is desired now`)
	w.desires("b1 setpoint=1", "b1 setpoint=50", "b1 fan=true", "b2 setpoint=3")
}

// While the process was down the cloud's value changed: nobody told the call.
func TestACallThatWasReplacedWhileNobodyLookedIsSaidSo(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "set", "", "k", `{"setpoint": 3}`)
	w.desires("b1 setpoint=3")
	w.stop()
	w.gets(c, http.StatusServiceUnavailable, "stopping")
	w.cloud("b1", "setpoint", "60")
	w.start()
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 3}`), http.StatusConflict, `"60" is desired now`)
}

func TestWhatReplacesADesireEndsTheCall(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "heat", "", "k", both)
	w.desires("b1 setpoint=50", "b1 fan=true")
	w.report("b1", "fan", "true", "true")
	w.cloud("b1", "fan", "false") // it was read back before
	w.waits("b1")
	w.cloud("b1", "setpoint", "60")
	w.gets(c, http.StatusConflict, `property "setpoint": "60" is desired now, before the device had "50"`)
	// The same value is no other.
	c = w.posting("b1", "set", "", "", `{"setpoint": 50}`)
	w.desires("b1 setpoint=50", "b1 fan=true", "b1 setpoint=50")
	w.cloud("b1", "setpoint", "+50")
	w.given("b1", "setpoint", "+50", "")
	w.report("b1", "setpoint", "50", "+50")
	w.gets(c, http.StatusOK, "")
}

// A report and a change of the cloud's meet: the report is being stored when the desire is replaced.
func TestAReportThatIsBeingStoredIsWaitedFor(t *testing.T) {
	for _, failing := range []error{nil, errors.New("the disk is full")} {
		w := newWorld(t)
		c := w.posting("b1", "set", "", "k", `{"setpoint": 50}`)
		w.desires("b1 setpoint=50")
		_, said, err := w.plant.server.Reporting(t.Context(), "plant", "b1", w.twins("b1", "setpoint", "50", "50"))
		if err != nil {
			t.Fatal(err)
		}
		w.cloud("b1", "setpoint", "60")
		w.waits("b1")
		said(failing)
		if failing == nil {
			w.gets(c, http.StatusOK, "")
		} else {
			w.gets(c, http.StatusConflict, "desired now")
		}
		w.stop()
	}
}

// The device had what was desired before the desire was replaced: the report of that was on its way to the disk.
func TestADesireThatIsReplacedOnceItIsReportedIsNotLost(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "heat", "", "k", both)
	w.desires("b1 setpoint=50", "b1 fan=true")
	_, said, err := w.plant.server.Reporting(t.Context(), "plant", "b1", w.twins("b1", "fan", "true", "true"))
	if err != nil {
		t.Fatal(err)
	}
	w.cloud("b1", "fan", "false")
	said(nil)
	w.waits("b1")
	w.report("b1", "setpoint", "50", "50")
	w.gets(c, http.StatusOK, "")
}

func TestAReportThatCannotBeStoredReadsNothingBack(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "set", "", "k", `{"setpoint": 50}`)
	w.desires("b1 setpoint=50")
	if err := w.reportFails("b1", errors.New("the disk is full"), "setpoint", "50", "50"); err != nil {
		t.Fatal(err)
	}
	w.waits("b1")
	w.report("b1", "setpoint", "50", "50")
	w.gets(c, http.StatusOK, "")
}

func TestCallsOfADeviceAreMadeInTheOrderInWhichTheyCame(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxCalls = 5 })
	var all []<-chan reply
	for i := range 5 {
		all = append(all, w.posting("b1", "set", "", "", fmt.Sprintf(`{"setpoint": %d}`, i)))
		eventually(t, "the call to be in its row", func() error {
			if n := w.metric("calls"); n != float64(i+1) {
				return fmt.Errorf("%v calls wait", n)
			}
			return nil
		})
	}
	w.is(w.post("b1", "set", "", "", `{"setpoint": 9}`), http.StatusTooManyRequests, "at most 5 calls")
	other := w.posting("b2", "set", "", "", `{"setpoint": 7}`) // which is held up by nothing
	want := []string{"b1 setpoint=0", "b2 setpoint=7"}
	w.desires(want...)
	w.report("b2", "setpoint", "7", "7")
	w.gets(other, http.StatusOK, "")
	for i := range 5 {
		value := fmt.Sprint(i)
		w.desires(want...)
		w.report("b1", "setpoint", value, value)
		w.gets(all[i], http.StatusOK, "")
		want = append(want, fmt.Sprintf("b1 setpoint=%d", i+1))
	}
}

func TestAHungMapperHoldsUpItsOwnDevicesOnly(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxCallsOfMapper = 2 })
	w.edit(func() {
		d := w.devices["plant/b2"]
		model := d.Model.DeepCopy()
		model.Spec.Protocol = "modbus"
		d.Model = model
		w.devices["plant/b2"] = d
	})
	first, second := w.posting("b1", "set", "", "", `{"setpoint": 1}`), w.posting("b1", "set", "", "k", `{"setpoint": 1}`)
	eventually(t, "both to wait", func() error {
		if n := w.metric("calls"); n != 2 {
			return fmt.Errorf("%v do", n)
		}
		return nil
	})
	r := w.post("b1", "set", "", "", `{"setpoint": 3}`)
	w.is(r, http.StatusServiceUnavailable, "at most 2 calls")
	if r.header.Get("Retry-After") == "" {
		t.Errorf("headers %v", r.header)
	}
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusServiceUnavailable, "at most 2 calls")
	c := w.posting("b2", "set", "", "", `{"setpoint": 4}`)
	w.desires("b1 setpoint=1", "b2 setpoint=4")
	w.report("b2", "setpoint", "4", "4")
	w.gets(c, http.StatusOK, "")
	w.report("b1", "setpoint", "1", "1")
	w.desires("b1 setpoint=1", "b1 setpoint=1", "b2 setpoint=4")
	w.report("b1", "setpoint", "1", "1")
	w.gets(first, http.StatusOK, "")
	w.gets(second, http.StatusOK, "")
}

func TestACallWhoseTurnDoesNotComeWritesNothing(t *testing.T) {
	w := newWorld(t)
	first := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	w.is(w.post("b1", "set", "?timeout=20ms", "k", `{"setpoint": 2}`), http.StatusGatewayTimeout, "Nothing was written")
	w.report("b1", "setpoint", "1", "1")
	w.gets(first, http.StatusOK, "")
	// So its key is as good as new.
	c := w.posting("b1", "set", "", "k", `{"setpoint": 3}`)
	w.desires("b1 setpoint=1", "b1 setpoint=3")
	w.report("b1", "setpoint", "3", "3")
	w.gets(c, http.StatusOK, "")
}

func TestACallGoesOnWhenItsClientIsGone(t *testing.T) {
	w := newWorld(t)
	first := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan reply, 1)
	go func() {
		gone <- w.do(ctx, http.MethodPost, "/v1/devices/plant/b1/methods/set", `{"setpoint": 2}`, "Idempotency-Key", "k")
	}()
	eventually(t, "it to wait", func() error {
		if n := w.metric("calls"); n != 2 {
			return fmt.Errorf("%v do", n)
		}
		return nil
	})
	hangUp()
	if r := <-gone; !errors.Is(r.err, context.Canceled) {
		t.Fatalf("answered with %+v, %v", r.answer, r.err)
	}
	w.report("b1", "setpoint", "1", "1")
	w.gets(first, http.StatusOK, "")
	w.desires("b1 setpoint=1", "b1 setpoint=2")
	w.report("b1", "setpoint", "2", "2")
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 2}`), http.StatusOK, "")
	w.desires("b1 setpoint=1", "b1 setpoint=2")
}

func TestWithoutItsMapperNothingIsCalled(t *testing.T) {
	w := newWorld(t)
	is := func(away bool) { w.edit(func() { w.away["plant/b1"] = away }) }
	is(true)
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusServiceUnavailable, "is away")
	is(false)
	first := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	second := w.posting("b1", "set", "", "k", `{"setpoint": 2}`)
	eventually(t, "it to wait", func() error {
		if n := w.metric("calls"); n != 2 {
			return fmt.Errorf("%v do", n)
		}
		return nil
	})
	is(true)
	w.report("b1", "setpoint", "1", "1") // a report that was on its way
	w.gets(first, http.StatusOK, "")
	w.gets(second, http.StatusServiceUnavailable, "is away")
	is(false)
	w.late("b1", "set", "begun", `{"setpoint": 3}`)
	is(true)
	w.is(w.post("b1", "set", "", "begun", `{"setpoint": 3}`), http.StatusServiceUnavailable, "is away")
	w.restart()
	w.is(w.post("b1", "set", "", "begun", `{"setpoint": 3}`), http.StatusServiceUnavailable, "is away")
	is(false)
	c := w.posting("b1", "set", "", "begun", `{"setpoint": 3}`)
	w.report("b1", "setpoint", "3", "3")
	w.gets(c, http.StatusOK, "")
	w.desires("b1 setpoint=1", "b1 setpoint=3")
}

func TestACallThatCannotBeStoredIsNotMade(t *testing.T) {
	w := newWorld(t)
	w.edit(func() { w.failing = errors.New("the disk is full") })
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusServiceUnavailable, "cannot store")
	w.edit(func() { w.failing = fmt.Errorf("%w: no room", ErrInvalid) })
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusBadRequest, "no room")
	w.edit(func() { w.failing = ErrUnknown })
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusNotFound, "gone")
	w.edit(func() { w.failing = nil })
	c := w.posting("b1", "set", "", "k", `{"setpoint": 2}`)
	w.desires("b1 setpoint=2")
	w.report("b1", "setpoint", "2", "2")
	w.gets(c, http.StatusOK, "")
	if n := w.metric("failures_total"); n != 1 {
		t.Errorf("%v failures", n)
	}
}

func TestADeviceThatGoesEndsItsCalls(t *testing.T) {
	w := newWorld(t)
	c := w.posting("b1", "set", "", "k", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	w.edit(func() { delete(w.devices, "plant/b1") })
	w.plant.server.Gone("plant", "b1")
	w.gets(c, http.StatusNotFound, "gone")
	if n := w.metric("keys"); n != 0 {
		t.Errorf("%v keys of it are remembered", n)
	}
	w.is(w.post("b1", "set", "", "k", `{"setpoint": 1}`), http.StatusNotFound, "no device")
	// Another of the name has no calls yet, and nothing is left of the former one's.
	w.boiler("b1")
	w.edit(func() { w.devices["plant/b1"].Device.UID = "another" })
	c = w.posting("b1", "set", "", "k", `{"setpoint": 2}`)
	w.desires("b1 setpoint=1", "b1 setpoint=2")
	w.report("b1", "setpoint", "2", "2")
	w.gets(c, http.StatusOK, "")
	w.edit(func() {
		if len(w.notes) != 1 {
			t.Errorf("%d notes: %v", len(w.notes), w.notes)
		}
	})
	// Nor where it came while nobody looked.
	w.stop()
	w.edit(func() { w.devices["plant/b1"].Device.UID = "a third" })
	w.start()
	c = w.posting("b1", "set", "", "k", `{"setpoint": 3}`)
	w.desires("b1 setpoint=1", "b1 setpoint=2", "b1 setpoint=3")
	w.report("b1", "setpoint", "3", "3")
	w.gets(c, http.StatusOK, "")
}

func TestKeysAreBoundedAndTheOldestGivesWay(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxKeys, c.MaxKeysOfDevice = 5, 3 })
	call := func(device, key string) {
		t.Helper()
		before := len(w.heard())
		c := w.posting(device, "set", "", key, `{"setpoint": 1}`)
		eventually(t, "it to be desired", func() error {
			if n := len(w.heard()); n != before+1 {
				return fmt.Errorf("%d desires after %d", n, before)
			}
			return nil
		})
		w.report(device, "setpoint", "1", "1")
		w.gets(c, http.StatusOK, "")
		eventually(t, "nobody to wait", func() error {
			if w.metric("calls") != 0 {
				return errors.New("somebody does")
			}
			return nil
		})
	}
	knows := func(device string, keys ...string) {
		t.Helper()
		for _, key := range keys {
			r := w.post(device, "set", "", key, `{"setpoint": 1}`)
			w.is(r, http.StatusOK, "")
			if r.header.Get("Idempotency-Replayed") == "" {
				t.Errorf("key %s of %s is not known", key, device)
			}
		}
	}
	for i := range 5 {
		call("b1", fmt.Sprint(i))
	}
	knows("b1", "2", "3", "4")
	w.edit(func() {
		if len(w.notes) != 3 {
			t.Errorf("%d notes of one device are kept: %v", len(w.notes), w.notes)
		}
	})
	for i := range 3 {
		call("b2", fmt.Sprint(i))
	}
	knows("b1", "3", "4")
	knows("b2", "0", "1", "2")
	w.edit(func() {
		if len(w.notes) != 5 {
			t.Errorf("%d notes are kept: %v", len(w.notes), w.notes)
		}
	})
	w.restart()
	knows("b1", "3", "4")
	knows("b2", "0", "1", "2")
	call("b1", "0")
	knows("b1", "4", "0")
}

func TestWhatIsKeptOfKeysIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxKeyBytes = 2000 })
	long := strings.Repeat("x", 500)
	for i := range 5 {
		w.late("b1", "name%20it%2Fnow", fmt.Sprint(i), fmt.Sprintf(`{"label": "%s%d"}`, long, i))
	}
	w.edit(func() {
		n := 0
		for _, v := range w.notes {
			n += len(v)
		}
		if n > 2000 || len(w.notes) == 0 {
			t.Errorf("%d notes of %d bytes", len(w.notes), n)
		}
	})
}

func TestKeysExpire(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.KeyLife = time.Nanosecond })
	for range 3 {
		w.late("b1", "set", "k", `{"setpoint": 1}`)
	}
	w.late("b1", "set", "other", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1", "b1 setpoint=1", "b1 setpoint=1", "b1 setpoint=1")
	w.edit(func() {
		if len(w.notes) != 1 {
			t.Errorf("%d notes: %v", len(w.notes), w.notes)
		}
	})
}

func TestWhatCannotBeReadIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.late("b1", "set", "k", `{"setpoint": 1}`)
	w.stop()
	w.edit(func() {
		for key := range w.notes {
			w.notes[key] = w.notes[key][1:]
		}
		w.unread = errors.New("the disk does not answer") // once
	})
	w.start()
	w.late("b1", "set", "k", `{"setpoint": 2}`)
	w.desires("b1 setpoint=1", "b1 setpoint=2")
	w.edit(func() {
		if len(w.notes) != 1 {
			t.Errorf("%d notes: %v", len(w.notes), w.notes)
		}
	})
}

func TestReportsWaitUntilFormerCallsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant()
		s := New(Config{}, Deps{Devices: p, Memory: p, Registry: prometheus.NewRegistry()})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := s.Reporting(ctx, "plant", "b1", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("expected the context's error, found %v", err)
		}
		heard := make(chan error, 1)
		go func() {
			_, _, err := s.Reporting(t.Context(), "plant", "b1", nil)
			heard <- err
		}()
		synctest.Wait()
		if len(heard) > 0 {
			t.Errorf("a report does not wait: %v", <-heard)
		}
		if err := s.desk.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-heard; err != nil {
			t.Error(err)
		}
	})
}

// A bench is a desk without its port, for tests that wait until nobody moves.
type bench struct {
	*testing.T
	*plant
	stop func()
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, plant: newPlant()}
	b.boiler("b1")
	b.start()
	return b
}

func (b *bench) start() {
	b.Helper()
	b.plant.server = New(Config{}, Deps{Devices: b.plant, Memory: b.plant, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	desk := b.plant.server.desk
	if err := desk.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	desk.live(ctx)
	b.stop = func() {
		cancel()
		desk.rest()
	}
}

// asks asks for the method heat, as both, with a key, and returns once nobody moves.
func (b *bench) asks() <-chan answer {
	b.Helper()
	v, refused := b.plant.server.desk.take(ask{namespace: "plant", name: "b1", method: "heat", key: "k", timeout: time.Minute,
		given: map[string]literal{"setpoint": {text: "50", kind: number}, "fan": {text: "true", kind: boolean}}})
	if refused != nil {
		b.Fatal(refused)
	}
	c := make(chan answer, 1)
	go func() {
		defer v.leave()
		c <- b.plant.server.desk.wait(b.Context(), v, time.Minute)
	}()
	synctest.Wait()
	return c
}

// reports begins a report of what a property has, as it is desired, and returns what stores it.
func (b *bench) reports(ctx context.Context, property, value string) (store func(), err error) {
	notes, said, err := b.plant.server.Reporting(ctx, "plant", "b1", b.twins("b1", property, value, value))
	if err != nil {
		return nil, err
	}
	return func() {
		b.edit(func() { b.keep(notes) })
		said(nil)
	}, nil
}

// wrote says how often the desk wrote by itself.
func (b *bench) wrote(n int) {
	b.Helper()
	b.edit(func() {
		if b.writes != n {
			b.Errorf("%d writes, expected %d", b.writes, n)
		}
	})
}

// A mapper may report each property by itself, all at a time.
func TestReportsAtATimeAreKeptTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.asks()
		first, err := b.reports(t.Context(), "fan", "true")
		if err != nil {
			t.Fatal(err)
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.reports(hasty, "setpoint", "50"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("expected the context's error, found %v", err)
		}
		if store, err := b.reports(t.Context(), "flow", "3"); err != nil { // which no call waits for
			t.Error(err)
		} else {
			store()
		}
		go func() {
			if second, err := b.reports(t.Context(), "setpoint", "50"); err != nil {
				t.Error(err)
			} else {
				second()
			}
		}()
		synctest.Wait()
		first()
		if a := <-c; a.Code != http.StatusOK {
			t.Errorf("found %+v", a)
		}
		b.wrote(0) // but with the reports
		b.stop()
		b.start()
		c = b.asks()
		select {
		case a := <-c:
			if a.Code != http.StatusOK {
				t.Errorf("after a restart: %+v", a)
			}
		default:
			t.Error("after a restart the call that was answered with 200 waits")
		}
		b.stop()
	})
}

// All who wait hear of a conflict once it is on the disk, and nobody if it cannot be.
func TestAConflictIsToldOnceItIsOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		all := []<-chan answer{b.asks(), b.asks()}
		disk := make(chan struct{})
		desire := func(value string) {
			b.edit(func() {
				next := twin.Property{Own: true, Cloud: &twin.Value{Value: value}}
				b.devices["plant/b1"].Properties["setpoint"] = &next
				b.plant.server.Changed("plant", "b1", map[string]*twin.Property{"setpoint": &next})
			})
		}
		hears := func(code int, all ...<-chan answer) {
			t.Helper()
			for _, c := range all {
				if a := <-c; a.Code != code || a.Call == "" {
					t.Errorf("expected %d, found %+v", code, a)
				}
			}
		}
		b.edit(func() { b.block, b.failing = disk, errors.New("the disk is full") })
		desire("60")
		all = append(all, b.asks())
		for i, c := range all {
			if len(c) > 0 {
				t.Errorf("request %d was answered before the disk was", i)
			}
		}
		close(disk)
		hears(http.StatusServiceUnavailable, all...)
		b.wrote(1) // for all of them
		b.edit(func() { b.block, b.failing = nil, nil })
		hears(http.StatusConflict, b.asks())
		b.stop()
		b.start()
		desire("50")
		hears(http.StatusConflict, b.asks())
		b.stop()
	})
}
