package hub

import (
	"fmt"
	"testing"
	"time"
)

// TestAStormIsLetInAtItsRateAndNobodyIsSentAwayForLong: 5,000 edges come at once and do as they are told, and while they do a switch dies for
// some seconds, so that many come at once again.
func TestAStormIsLetInAtItsRateAndNobodyIsSentAwayForLong(t *testing.T) {
	const edges, perSecond = 5000, 1000
	a := newAdmission(perSecond)
	start := time.Unix(1_700_000_000, 0)
	due := map[string]time.Time{}
	for i := range edges {
		due[fmt.Sprint("edge-", i)] = start
	}
	asked, second := 0, 0
	for now := start; len(due) > 0; now = now.Add(10 * time.Millisecond) {
		in := 0
		if d := now.Sub(start); d > 2*time.Second && d < 6*time.Second {
			continue // the switch is dead
		}
		for node, at := range due {
			if at.After(now) {
				continue
			}
			asked++
			if wait := a.ask(node, now); wait > 0 {
				if wait < time.Second || wait > mostAway {
					t.Fatalf("an edge is told to stay away for %s, want a second to %s", wait, mostAway)
				}
				due[node] = now.Add(wait)
				continue
			}
			in++
			delete(due, node)
		}
		if second += in; in > perSecond {
			t.Fatalf("%d were let in at once, want a second's worth at most", in)
		}
		if limit := perSecond + perSecond*(now.Sub(start).Seconds()+0.02); float64(second) > limit {
			t.Fatalf("%d were let in within %s, want %.0f at most", second, now.Sub(start), limit)
		}
		if now.Sub(start) > 30*time.Second {
			t.Fatalf("%d are not in after 30 s", len(due))
		}
	}
	if asked > 4*edges {
		t.Errorf("%d edges asked %d times, want 4 times each at most", edges, asked)
	}
	if len(a.away) > 0 {
		t.Errorf("%d who are in are taken for away", len(a.away))
	}
}

// TestWhoNeverComesBackCostsNothing: what is remembered of an edge that was sent away goes.
func TestWhoNeverComesBackCostsNothing(t *testing.T) {
	a := newAdmission(1)
	now := time.Unix(1_700_000_000, 0)
	for i := range 1000 {
		if wait := a.ask(fmt.Sprint("edge-", i), now); wait > mostAway {
			t.Fatalf("an edge is told to stay away for %s", wait)
		}
	}
	now = now.Add(10 * time.Minute)
	if wait := a.ask("late", now); wait != 0 {
		t.Errorf("ten minutes later an edge waits %s", wait)
	}
	a.ask("another", now)
	if len(a.away) > 1 {
		t.Errorf("%d who did not come back are remembered", len(a.away))
	}
	if wait := newAdmission(0).ask("unbounded", now); wait != 0 {
		t.Errorf("without a bound an edge waits %s", wait)
	}
}

// TestOneNodeTakesNobodysTurn: it may come over two protocols at once, and where it comes all the time only its own is spent.
func TestOneNodeTakesNobodysTurn(t *testing.T) {
	a := newAdmission(10)
	now := time.Unix(1_700_000_000, 0)
	in := 0
	for range 100 {
		if a.ask("restless", now) == 0 {
			in++
		}
	}
	if in != waysAtOnce {
		t.Errorf("a node that asks a hundred times at once is let in %d times, want %d", in, waysAtOnce)
	}
	for i := range 9 {
		if wait := a.ask(fmt.Sprint("edge-", i), now); wait != 0 {
			t.Fatalf("edge %d of nine has to wait %s beside it", i, wait)
		}
	}
	if wait := a.ask("one too many", now); wait == 0 || len(a.away) != 1 {
		t.Errorf("the eleventh waits %s, %d are away", wait, len(a.away))
	}
	a.in("one too many") // it came over another way
	if len(a.away) != 0 {
		t.Errorf("%d are away, and have a session", len(a.away))
	}
}
