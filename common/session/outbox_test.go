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
	o.result(now, &wire.Result{Id: 2, Code: 503})
	o.result(now, &wire.Result{Id: 101, Code: 200, Final: true})
	take(106, 5)
	o.remove(3) // a newer one takes its place
	take(6)
}
