package methods

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
)

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
