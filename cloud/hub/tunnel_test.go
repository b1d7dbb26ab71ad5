package hub

import (
	"errors"
	"testing"
)

// Who sends an edge away looks for streams first: one that is opened in between keeps the edge, and later ones find it gone.
func TestAStreamIsOpenedBeforeTheEndOrNotAtAll(t *testing.T) {
	var of tunnel
	release, _, err := of.reserve()
	if err != nil {
		t.Fatal(err)
	}
	if of.endUnused() {
		t.Error("it ended with a stream open")
	}
	release()
	if !of.endUnused() {
		t.Error("it did not end without a stream")
	}
	if _, _, err := of.reserve(); !errors.Is(err, ErrAway) {
		t.Errorf("expected ErrAway, found %v", err)
	}
}
