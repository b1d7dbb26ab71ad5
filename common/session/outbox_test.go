package session

import (
	"slices"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A device that reports fast replaces its own status again and again: what of it the cloud still works on counts.
func TestASupersededWriteKeepsItsPlaceUntilItsAnswer(t *testing.T) {
	edge := NewEdge(EdgeConfig{WriteWindow: 4, RetryMin: time.Second, RetryMax: time.Second, Rand: func() float64 { return 0 }}, Held{})
	head := func(id uint64, name string) Head {
		return Head{ID: id, Key: object.Key{Kind: object.DeviceStatuses, Namespace: "ns", Name: name}}
	}
	sends := func(what string, want ...uint64) {
		t.Helper()
		if ids, _ := edge.out.take(time.Time{}); !slices.Equal(ids, want) {
			t.Errorf("%s: sends %v, expected %v", what, ids, want)
		}
	}
	edge.Queued(head(1, "fast"))
	edge.Queued(head(2, "other"))
	edge.Queued(head(3, "third"))
	sends("half of the window is for devices", 1, 2)
	edge.Gone(1)
	edge.Queued(head(4, "fast"))
	sends("the first is superseded, and on its way")
	edge.out.result(time.Time{}, &wire.Result{Id: 1})
	sends("it has its answer", 3)
	edge.Gone(2)
	edge.Unsent(2)
	sends("the second was never sent", 4)
	for _, id := range []uint64{3, 4} {
		edge.out.result(time.Time{}, &wire.Result{Id: id, Final: true})
		edge.out.result(time.Time{}, &wire.Result{Id: id, Final: true}) // a hub that repeats itself
	}
	if len(edge.out.flights) != 0 || edge.out.low != 0 || len(edge.out.keys) != 0 {
		t.Errorf("in the end %d writes are under way, %d of low priority, of %d keys", len(edge.out.flights), edge.out.low, len(edge.out.keys))
	}
}
