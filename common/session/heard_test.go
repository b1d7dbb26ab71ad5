package session

import (
	"testing"
	"time"
)

// What is told late of an earlier moment takes nothing back.
func TestWhatWasHeardLastStays(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var e Edge
	var h Hub
	for _, d := range []time.Duration{0, 3, 1} {
		e.Heard(at.Add(d * time.Second))
		h.Heard(at.Add(d * time.Second))
	}
	if want := at.Add(3 * time.Second); !e.lastReceived.Equal(want) || !h.lastReceived.Equal(want) {
		t.Errorf("the edge heard something last at %s, the hub at %s, expected %s", e.lastReceived, h.lastReceived, want)
	}
}
