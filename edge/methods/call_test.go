package methods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	if p := r.Properties; len(p) != 2 || p["setpoint"].Desired != "50" || p["setpoint"].Result != wasDone || *p["setpoint"].Reported != "50" || p["fan"].Desired != "true" || *p["fan"].Reported != "1" || r.Call == "" {
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

func TestACallThatIsNotReadBackInTimeGoesOn(t *testing.T) {
	w := newWorld(t)
	r := w.late("b1", "set", "k", `{"setpoint": 50}`)
	w.is(r, http.StatusGatewayTimeout, "waits on and desires nothing anew")
	if p := r.Properties["setpoint"]; p.Desired != "50" || p.Result != isPending || p.Reported != nil {
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
