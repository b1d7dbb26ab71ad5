package hub

import (
	"testing"
	"time"
)

// TestADrainIsSpreadOverItsEdges: ten thousand that came back within a second would be a storm for those who take them.
func TestADrainIsSpreadOverItsEdges(t *testing.T) {
	for sessions, want := range map[int]time.Duration{0: 2 * time.Second, 300: 2 * time.Second, 2000: 5 * time.Second, 3000: 7 * time.Second, 50_000: 8 * time.Second} {
		if got := drainWithin(sessions); got != want {
			t.Errorf("%d edges: expected to come back within %s, found %s", sessions, want, got)
		}
	}
	h := &Hub{within: 20 * time.Second}
	var first, second int
	for range 1000 {
		switch d := h.afterDrain(); {
		case d < time.Second || d > 20*time.Second:
			t.Fatalf("expected 1 to 20 s, found %s", d)
		case d < 10500*time.Millisecond:
			first++
		default:
			second++
		}
	}
	if first < 300 || second < 300 {
		t.Errorf("expected about as many in either half of the time, found %d and %d", first, second)
	}
}
