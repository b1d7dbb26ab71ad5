package session

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Statuses of devices wait for their turn in the cloud: with a thousand of them under way the node's own must not wait.
func TestWritesOfLowPriorityLeaveRoomForTheOthers(t *testing.T) {
	now := time.Unix(1e6, 0)
	o := newOutbox(EdgeConfig{WriteWindow: 8, RetryMin: time.Second, RetryMax: time.Minute, Rand: func() float64 { return 0 }})
	add := func(id uint64, priority int) {
		o.add(Head{ID: id, Key: object.Key{Kind: object.DeviceStatuses, Namespace: "ns", Name: fmt.Sprint(id)}, Priority: priority})
	}
	take := func(want ...uint64) {
		t.Helper()
		if ids, _ := o.take(now); !slices.Equal(ids, want) {
			t.Fatalf("sends %v, expected %v", ids, want)
		}
	}
	for id := uint64(1); id <= 20; id++ {
		add(id, object.PriorityPod/2)
	}
	take(1, 2, 3, 4)
	for id := uint64(101); id <= 106; id++ {
		add(id, object.PriorityPod)
	}
	take(101, 102, 103, 104)
	o.result(now, &wire.Result{Id: 1, Code: 200, Final: true})
	take(105)
	o.result(now, &wire.Result{Id: 2, Code: 409})
	o.result(now, &wire.Result{Id: 101, Code: 200, Final: true})
	take(106, 5)
	o.remove(3) // a newer one takes its place, and the hub still holds it
	take()
	o.result(now, &wire.Result{Id: 3, Code: 503})
	take(6)
}

// A hub that holds more writes than the window ends the session, and a device that reports faster than the cloud writes replaces what is
// under way all the time.
func TestAWriteThatWasReplacedCountsUntilItIsAnswered(t *testing.T) {
	now := time.Unix(1e6, 0)
	o := newOutbox(EdgeConfig{WriteWindow: 4, RetryMin: time.Second, RetryMax: time.Minute, Rand: func() float64 { return 0 }})
	const devices = 10
	held := []uint64{} // by the hub
	last := map[int]uint64{}
	next := uint64(1)
	for round := range 50 {
		for d := range devices {
			if id := last[d]; id != 0 {
				o.remove(id)
			}
			last[d] = next
			o.add(Head{ID: next, Key: object.Key{Kind: object.DeviceStatuses, Namespace: "ns", Name: fmt.Sprint(d)}, Priority: object.PriorityPod})
			next++
			ids, _ := o.take(now)
			if held = append(held, ids...); len(held) > 4 {
				t.Fatalf("in round %d the hub holds %v, the window is 4", round, held)
			}
		}
		answered := held[0]
		held = held[1:]
		o.result(now, &wire.Result{Id: answered, Code: 200, Final: true})
	}
	// What is the newest of each goes once there is room.
	sent := map[uint64]bool{}
	for _, id := range held {
		sent[id] = true
	}
	for len(held) > 0 {
		id := held[0]
		held = held[1:]
		o.result(now, &wire.Result{Id: id, Code: 200, Final: true})
		ids, _ := o.take(now)
		for _, id := range ids {
			sent[id] = true
		}
		held = append(held, ids...)
	}
	for d, id := range last {
		if !sent[id] {
			t.Errorf("the last write of device %d, %d, was never sent", d, id)
		}
	}
	if o.open != 0 || o.low != 0 || len(o.void) != 0 || len(o.keys) != 0 {
		t.Errorf("after the last answer %d writes are open, %d of low priority, %d void and %d keys known", o.open, o.low, len(o.void), len(o.keys))
	}
}

func TestAWriteThatWasNotSentTakesNoPlace(t *testing.T) {
	now := time.Unix(1e6, 0)
	o := newOutbox(EdgeConfig{WriteWindow: 1, RetryMin: time.Second, RetryMax: time.Minute, Rand: func() float64 { return 0 }})
	for id := uint64(1); id <= 3; id++ {
		o.add(Head{ID: id, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: fmt.Sprint(id)}, Priority: object.PriorityPod})
	}
	for id := uint64(1); id <= 3; id++ {
		if ids, _ := o.take(now); !slices.Equal(ids, []uint64{id}) {
			t.Fatalf("sends %v, expected %d", ids, id)
		}
		o.unsent(id)
	}
	if o.open != 0 {
		t.Errorf("%d writes are open, and none was sent", o.open)
	}
}

// After an outage of the API server what waits does not sit out its back-off: the first write that goes through tells that it is
// there again. A write that it fails for a reason of its own, and one that it has no use for now, wait their time.
func TestTheFirstWriteThatGoesThroughWakesThoseThatFoundNoAPIServer(t *testing.T) {
	now := time.Unix(1e6, 0)
	o := newOutbox(EdgeConfig{WriteWindow: 8, RetryMin: time.Second, RetryMax: time.Minute, Rand: func() float64 { return 1 }})
	take := func(want ...uint64) {
		t.Helper()
		ids, _ := o.take(now)
		if slices.Sort(ids); !slices.Equal(ids, want) {
			t.Fatalf("sends %v, expected %v", ids, want)
		}
	}
	answer := func(code int32, ids ...uint64) {
		for _, id := range ids {
			o.result(now, &wire.Result{Id: id, Code: code, Final: code >= 200 && code < 300})
		}
	}
	for id := uint64(1); id <= 7; id++ {
		o.add(Head{ID: id, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: fmt.Sprint(id)}, Priority: object.PriorityPod})
	}
	take(1, 2, 3, 4, 5, 6, 7)
	answer(0, 1, 2) // it was not reached
	answer(500, 3)
	answer(503, 4)
	answer(429, 5)
	answer(409, 6)
	take()
	answer(200, 7)
	take(1, 2, 3, 4)
	answer(200, 1, 2, 4)
	answer(500, 3) // its own fault
	take()
	o.add(Head{ID: 8, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: "8"}, Priority: object.PriorityPod})
	take(8)
	answer(200, 8)
	take()
	now = now.Add(2 * time.Second)
	take(3, 5, 6)
	// It goes through, with another of its key behind it: the next outage is another.
	o.add(Head{ID: 9, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: "3"}, Priority: object.PriorityPod})
	answer(200, 3, 5, 6)
	o.add(Head{ID: 10, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: "4"}, Priority: object.PriorityPod})
	take(9, 10)
	answer(0, 9)
	answer(200, 10)
	take(9)
}
