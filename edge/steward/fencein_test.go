package steward

import (
	"encoding/json"
	"testing"
	"time"
)

// Others are told for how long a fence leaves its pods, also by a process that started in the middle of a cut, and after a boot.
func TestAFenceTellsHowLongItLeaves(t *testing.T) {
	up := 10 * time.Hour
	boot := Boot{ID: "this", Uptime: func() time.Duration { return up }}
	s := &Steward{fence: newFence(0, boot)}
	if left, ok := s.FenceIn(); ok {
		t.Errorf("nothing is fenced, in %s", left)
	}
	want := func(when string, of *Steward, want time.Duration) {
		t.Helper()
		if left, ok := of.FenceIn(); left != want || !ok {
			t.Errorf("%s it is %s, %v, expected %s", when, left, ok, want)
		}
	}
	s = &Steward{fence: newFence(time.Hour, boot)}
	want("before the first look", s, time.Hour)
	s.fence.on(true, true)
	want("with a link", s, time.Hour)
	up += 20 * time.Minute
	s.fence.on(false, false)
	want("in a cut", s, 40*time.Minute)
	note, err := json.Marshal(heardNote{"this", 10 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	again := &Steward{fence: newFence(time.Hour, boot)}
	again.fence.recall(note)
	again.fence.on(false, true)
	want("for a process that started meanwhile", again, 40*time.Minute)
	up += time.Hour
	want("once it is over, before anybody looked", again, 0)
	again.fence.on(false, true)
	want("once it is over", again, 0)
	boot.ID = "next"
	fresh := &Steward{fence: newFence(time.Hour, boot)}
	fresh.fence.recall(note)
	fresh.fence.on(false, false)
	want("after a boot without a link", fresh, 0)
}
