package hub

import (
	"fmt"
	"testing"
	"time"
)

// TestAStormIsLetInAtItsRateAndEachEdgeIsSentAwayOnce: 5,000 edges come at once, do as they are told, and all are in after five seconds
// and the whole seconds that they round to.
func TestAStormIsLetInAtItsRateAndEachEdgeIsSentAwayOnce(t *testing.T) {
	const edges, rate = 5000, 1000
	a := newAdmission(rate)
	start := time.Unix(1_700_000_000, 0)
	in := map[int]int{} // by the second
	later := map[string]time.Time{}
	for i := range edges {
		node := fmt.Sprint("edge-", i)
		if wait := a.ask(node, start); wait > 0 {
			later[node] = start.Add(wait.Round(time.Second))
		} else {
			in[0]++
		}
	}
	if in[0] < rate || in[0] > 2*rate {
		t.Errorf("%d came in at once, want a second's worth of %d or two", in[0], rate)
	}
	for s := range 10 {
		for node, at := range later {
			if now := start.Add(time.Duration(s) * time.Second); at.Equal(now) {
				if wait := a.ask(node, now); wait > 0 {
					t.Fatalf("%s came back when it was told to, and is sent away for %s more", node, wait)
				}
				in[s]++
				delete(later, node)
			}
		}
		if s > 0 && in[s] > rate+rate/100 {
			t.Errorf("%d came in in second %d, want %d at most", in[s], s, rate)
		}
	}
	if len(later) > 0 {
		t.Errorf("%d of %d edges are to come after more than 10 s, want none", len(later), edges)
	}
	if len(a.promised) > 0 {
		t.Errorf("%d appointments are kept that were met", len(a.promised))
	}
	if wait := a.ask("one more", start.Add(20*time.Second)); wait != 0 {
		t.Errorf("an edge that comes when all is over waits %s", wait)
	}
}

func TestAnEdgeThatComesTooEarlyKeepsItsPlace(t *testing.T) {
	a := newAdmission(1)
	start := time.Unix(1_700_000_000, 0)
	for i := range 2 { // now, and the second that was saved
		if wait := a.ask(fmt.Sprint(i), start); wait != 0 {
			t.Fatalf("edge %d waits %s", i, wait)
		}
	}
	first := map[string]time.Duration{}
	for i := range 10 {
		node := fmt.Sprint("edge-", i)
		first[node] = a.ask(node, start)
	}
	for node, wait := range first {
		if again := a.ask(node, start.Add(500*time.Millisecond)); wait > early+time.Second && again != wait-500*time.Millisecond {
			t.Errorf("%s was told %s, and half a second later %s", node, wait, again)
		}
	}
}

// TestAppointmentsThatAreMissedAreForgotten: what edges cost that never come back.
func TestAppointmentsThatAreMissedAreForgotten(t *testing.T) {
	a := newAdmission(1)
	now := time.Unix(1_700_000_000, 0)
	for i := range 100 {
		a.ask(fmt.Sprint("edge-", i), now)
	}
	now = now.Add(10 * time.Minute)
	if wait := a.ask("late", now); wait != 0 || len(a.promised) != 0 {
		t.Errorf("ten minutes later an edge waits %s, and %d appointments are kept", wait, len(a.promised))
	}
	// The clock goes back by a year.
	now = now.AddDate(-1, 0, 0)
	if wait := a.ask("after the clock was set", now); wait > 0 {
		t.Errorf("an edge waits %s after the clock went back", wait)
	}
	if wait := newAdmission(0).ask("unbounded", now); wait != 0 {
		t.Errorf("without a bound an edge waits %s", wait)
	}
}
