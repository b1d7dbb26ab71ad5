package drill

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// at is a moment of the first boot.
func at(d time.Duration) Moment { return Moment{Wall: noon.Add(d), Up: time.Hour + d, Boot: "b1"} }

func order(change ...func(*drill.Order)) drill.Order {
	o := drill.Order{ID: "a1", For: metav1.Duration{Duration: 10 * time.Minute}, Issued: noon}
	for _, f := range change {
		f(&o)
	}
	return o
}

// well is what a node sees that has nothing against a drill.
func well(now Moment, order string) input {
	return input{now: now, node: &Node{Order: order}, linked: true}
}

// cutAt is the note of a drill that cut the link at noon.
func cutAt(t *testing.T, o drill.Order) note {
	t.Helper()
	n := note{}.step(well(at(0), o.Text()))
	if n.Phase != drill.Agreed {
		t.Fatalf("the order is answered with %+v, expected an agreement", n)
	}
	in := well(at(0), o.Text())
	in.node.Shown = n.state().Text()
	if n = n.step(in); n.Phase != drill.Cut {
		t.Fatalf("the cluster shows the agreement: %+v, expected a cut", n)
	}
	return n
}

// away is what a node sees during a cut.
func away(now Moment) input { return input{now: now, node: &Node{}} }

func TestNothingIsCutBeforeTheClusterShowsTheAgreement(t *testing.T) {
	o := order()
	n := note{}.step(well(at(0), o.Text()))
	for _, shown := range []string{"", n.state().Text() + " ", drill.State{ID: "a0", Phase: drill.Agreed}.Text()} {
		in := well(at(30*time.Second), o.Text())
		in.node.Shown = shown
		if got := n.step(in); got != n {
			t.Errorf("the cluster shows %q: %+v, expected to wait", shown, got)
		}
	}
	if got := n.step(input{now: at(30 * time.Second)}); got != n {
		t.Errorf("without a Node: %+v, expected to wait", got)
	}
	got := n.step(well(at(drill.AgreeWithin+time.Second), o.Text()))
	if got.Phase != drill.CalledOff || !strings.Contains(got.Why, "did not show") {
		t.Errorf("the cluster shows it not in time: %+v, expected to call it off", got)
	}
	late := well(at(drill.AgreeWithin+2*time.Second), o.Text())
	late.node.Shown = n.state().Text()
	if again := got.step(late); again != got {
		t.Errorf("the cluster shows it too late: %+v", again)
	}
	in := well(at(drill.AgreeWithin+time.Second), o.Text())
	in.unkept = "disk full"
	if got := n.step(in); got.Phase != drill.CalledOff || !strings.Contains(got.Why, "disk full") {
		t.Errorf("the disk is full: %+v, expected to call it off and to say so", got)
	}
}

func TestAWithdrawnOrderIsCalledOffAndAnotherOneIsHeard(t *testing.T) {
	n := note{}.step(well(at(0), order().Text()))
	off := n.step(well(at(time.Second), ""))
	if off.Phase != drill.CalledOff || !strings.Contains(off.Why, "withdrawn") {
		t.Errorf("%+v, expected to call it off", off)
	}
	if got := off.step(well(at(time.Second), "")); got != (note{}) {
		t.Errorf("no order any more: %+v, expected that nothing is said", got)
	}
	stopped := well(at(time.Second), order().Text())
	stopped.node.Stop = "a1"
	if got := n.step(stopped); got.Phase != drill.CalledOff || !strings.Contains(got.Why, "somebody at the node") {
		t.Errorf("stopped at the node: %+v, expected to call it off", got)
	}
	other := order(func(o *drill.Order) { o.ID = "b2" })
	off = n.step(well(at(time.Second), other.Text()))
	if off.Phase != drill.CalledOff {
		t.Errorf("another order: %+v, expected to call the first one off", off)
	}
	if got := off.step(well(at(time.Second), other.Text())); got.Phase != drill.Agreed || got.Order.ID != "b2" {
		t.Errorf("%+v, expected to agree to the other order", got)
	}
}

func TestAnOrderIsRefusedWithItsReason(t *testing.T) {
	for want, c := range map[string]struct {
		order  drill.Order
		change func(*input)
	}{
		"drills: false":             {order(), func(in *input) { in.may.disabled = true }},
		"expected one of the last":  {order(), func(in *input) { in.now.Wall = noon.Add(drill.MaxAge + time.Second) }},
		"one of the clocks":         {order(), func(in *input) { in.now.Wall = noon.Add(-drill.MaxAge - time.Second) }},
		"waiting-runtime":           {order(), func(in *input) { in.may.kubelet = "waiting-runtime" }},
		"start edgecore again":      {order(func(o *drill.Order) { o.Power = true }), func(in *input) { in.may.unsupervised = true }},
		"Certificate: until monday": {order(), func(in *input) { in.node.Dependent = "Certificate: until monday" }},
		"expected 10s to 24h0m0s":   {order(func(o *drill.Order) { o.For.Duration = time.Second }), func(*input) {}},
		"not an order":              {order(), func(in *input) { in.node.Order = "ten minutes, please" }},
	} {
		in := well(at(0), c.order.Text())
		c.change(&in)
		n := note{}.step(in)
		if n.Phase != drill.Refused || !strings.Contains(n.Why, want) {
			t.Errorf("%+v, expected a refusal that says %q", n, want)
		}
		// It stays refused, though the reason goes, and is forgotten with the order.
		if again := n.step(well(at(0), in.node.Order)); again != n {
			t.Errorf("%q: the same order is answered again: %+v", want, again)
		}
		if gone := n.step(well(at(0), "")); gone != (note{}) {
			t.Errorf("%q: without an order: %+v", want, gone)
		}
	}
	in := well(at(0), order(func(o *drill.Order) { o.Force = true }).Text())
	in.node.Dependent = "Certificate: until monday"
	if n := (note{}).step(in); n.Phase != drill.Agreed {
		t.Errorf("with --force: %+v, expected to agree", n)
	}
	unlinked := well(at(0), order().Text())
	unlinked.linked = false
	if n := (note{}).step(unlinked); n != (note{}) {
		t.Errorf("without a link: %+v, expected to wait for it", n)
	}
	if n := (note{}).step(input{now: at(0), linked: true}); n != (note{}) {
		t.Errorf("without a Node: %+v, expected nothing", n)
	}
}

// The deadline is of a clock that nobody sets: whatever the other one says, the cut is as long as ordered.
func TestAWallClockThatJumpsChangesNoDeadline(t *testing.T) {
	for _, jump := range []time.Duration{0, -365 * 24 * time.Hour, 365 * 24 * time.Hour} {
		n := cutAt(t, order())
		for d := time.Second; d < 10*time.Minute; d += time.Second {
			now := at(d)
			now.Wall = now.Wall.Add(jump)
			if n = n.step(away(now)); n.Phase != drill.Cut {
				t.Fatalf("the clock jumped by %s: the cut is over after %s", jump, d)
			}
		}
		now := at(10 * time.Minute)
		now.Wall = now.Wall.Add(jump)
		if n = n.step(away(now)); n.Phase != drill.Back || n.End != endDeadline {
			t.Errorf("the clock jumped by %s: %+v after the whole time, expected the end", jump, n)
		}
	}
}

// run steps through a cut from the given time on, until the agent is killed or the cut ends, and returns what is on the disk and
// the time.
func run(t *testing.T, n note, from, until time.Duration, boot string, wall time.Duration) (note, time.Duration) {
	t.Helper()
	b, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var read note
	if err := json.Unmarshal(b, &read); err != nil {
		t.Fatal(err)
	}
	for d := from; d < until; d += 500 * time.Millisecond {
		now := Moment{Wall: noon.Add(d + wall), Up: time.Hour + d, Boot: boot}
		if boot != "b1" {
			now.Up = d - from // it begins anew
		}
		if read = read.step(away(now)); read.Phase != drill.Cut {
			return read, d
		}
	}
	return read, until
}

// Killed at any moment and started again, the agent ends the cut when it would have ended; and though the machine boots, with
// whatever clock, not later.
func TestARestartKeepsTheDeadline(t *testing.T) {
	for kill := time.Second; kill < 10*time.Minute; kill += 7 * time.Second {
		n, _ := run(t, cutAt(t, order()), 0, kill, "b1", 0)
		if _, end := run(t, n, kill+20*time.Second, time.Hour, "b1", -time.Hour); end != max(10*time.Minute, kill+20*time.Second) {
			t.Errorf("killed after %s and started 20 s later: the cut ends after %s, expected %s", kill, end, 10*time.Minute)
		}
		for _, wall := range []time.Duration{0, -365 * 24 * time.Hour, 365 * 24 * time.Hour} {
			on, end := run(t, n, kill, time.Hour, "b2", wall)
			if on.Phase != drill.Back || end > 10*time.Minute || wall <= 0 && end < 10*time.Minute-2*n.every() {
				t.Errorf("rebooted after %s with a clock that is off by %s: the cut ends after %s, expected at most %s", kill, wall, end, 10*time.Minute)
			}
		}
	}
}

// A machine that boots again and again, each time before anything is noted, does not stay away for ever.
func TestManyRebootsEndTheCut(t *testing.T) {
	n := cutAt(t, order())
	for boot := range 100 {
		n = n.step(away(Moment{Wall: noon.AddDate(-1, 0, 0), Up: time.Second, Boot: "b" + string(rune('A'+boot))}))
		if n.Phase == drill.Back {
			return
		}
	}
	t.Errorf("after 100 boots: %+v, expected the end", n)
}

// A note that something else wrote, or that was damaged in a way that can be read, makes no cut longer than its order.
func TestANoteCannotSayMoreThanItsOrder(t *testing.T) {
	n := cutAt(t, order())
	n.Left = 100 * 24 * time.Hour
	if n = n.step(away(at(10 * time.Minute))); n.Phase != drill.Back {
		t.Errorf("%+v, expected the end", n)
	}
}

func TestTheSameOrderIsHeardOnce(t *testing.T) {
	n := cutAt(t, order())
	n = n.step(away(at(10 * time.Minute)))
	n = n.step(well(at(10*time.Minute+time.Second), order().Text()))
	if n.Phase != drill.Done {
		t.Fatalf("%+v, expected the drill to be done", n)
	}
	for _, d := range []time.Duration{time.Second, drill.MaxAge - time.Second} {
		now := at(d) // even if the clock says that the order is fresh
		if got := n.step(well(now, order().Text())); got != n {
			t.Errorf("the order is met again: %+v", got)
		}
	}
}

func TestSomebodyAtTheNodeEndsTheCut(t *testing.T) {
	n := cutAt(t, order())
	in := away(at(time.Minute))
	in.node.Stop = "another"
	if got := n.step(in); got.Phase != drill.Cut {
		t.Errorf("another drill is to stop: %+v", got)
	}
	in.node.Stop = "a1"
	if got := n.step(in); got.Phase != drill.Back || got.End != endStopped || !got.Ended.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v, expected the end, now", got)
	}
}

func TestTheAgentIsKilledOnceAndInTheMiddle(t *testing.T) {
	n := cutAt(t, order(func(o *drill.Order) { o.Power = true }))
	if n = n.step(away(at(5*time.Minute - time.Second))); n.Powered {
		t.Error("it is killed before the middle")
	}
	if n = n.step(away(at(5 * time.Minute))); !n.Powered || n.Left != 5*time.Minute {
		t.Errorf("%+v, expected to be killed in the middle", n)
	}
	again, _ := run(t, n, 5*time.Minute+10*time.Second, 9*time.Minute, "b1", 0)
	if again.Phase != drill.Cut || !again.Powered {
		t.Errorf("%+v after the start, expected the cut to go on", again)
	}
}

// What waits for the cloud when the cut ends is what has to arrive; what is written later does not count, nor does the time until
// there is a link.
func TestADrillIsDoneOnceWhatWaitedIsDelivered(t *testing.T) {
	n := cutAt(t, order())
	in := away(at(10 * time.Minute))
	in.first, in.last = 7, 40
	n = n.step(in)
	offline := func(d time.Duration, first uint64) input {
		in := away(at(10*time.Minute + d))
		in.first, in.last = first, 50
		return in
	}
	online := func(d time.Duration, first uint64) input {
		in := offline(d, first)
		in.linked = true
		return in
	}
	if n = n.step(offline(time.Hour, 0)); n.Phase != drill.Back {
		t.Fatalf("%+v, expected to wait for the link", n)
	}
	if n = n.step(online(2*time.Hour, 7)); n.Phase != drill.Back || n.Linked != 2*time.Hour {
		t.Fatalf("%+v, expected to wait for the delivery", n)
	}
	n = n.step(offline(3*time.Hour, 40)) // lost again
	if n = n.step(online(3*time.Hour+time.Second, 40)); n.Phase != drill.Back {
		t.Fatalf("%+v, expected that a link that was lost again gets its time anew", n)
	}
	if done := n.step(online(3*time.Hour+4*time.Second, 41)); done.Phase != drill.Done || done.Linked != 2*time.Hour || done.Delivered != 3*time.Hour+4*time.Second {
		t.Errorf("%+v, expected to be done once 40 is delivered", done)
	}
	if done := n.step(online(3*time.Hour+4*time.Second, 0)); done.Phase != drill.Done {
		t.Errorf("%+v, expected to be done once nothing waits", done)
	}
	if late := n.step(online(3*time.Hour+deliverWithin+2*time.Second, 40)); late.Phase != drill.Done || late.Delivered != 0 {
		t.Errorf("%+v, expected an end without the delivery", late)
	}
}
