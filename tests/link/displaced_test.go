package link

import "testing"

// After another machine had the node's session, the cloud may show what that one said: the edge says all of its own again, once.
func TestAnEdgeThatWasDisplacedSaysAllAgain(t *testing.T) {
	w := newWorld(t, nil)
	e := w.join("edge", edgeConfig{})
	eventually(t, "the edge is up", e.up)
	said := func() (asserted int, doubts int64) {
		e.store.mu.Lock()
		defer e.store.mu.Unlock()
		return e.store.asserted, e.doubts.Load()
	}
	for i := range 2 {
		session := w.nodes.session("edge")
		w.hub.End("edge", session)
		eventually(t, "the edge is back", func() bool { now := e.Status(); return e.up() && now.Session != session })
		if asserted, doubts := said(); asserted != i+1 || doubts != int64(i+1) {
			t.Errorf("after end %d: asserted %d times, %d doubts", i+1, asserted, doubts)
		}
	}
	// A connection that just breaks is no reason.
	session := w.nodes.session("edge")
	w.stop()
	w.restart()
	eventually(t, "the edge is back at the hub that was started anew", func() bool { return e.up() && e.Status().Session != session })
	if asserted, doubts := said(); asserted != 2 || doubts != 2 {
		t.Errorf("after a restart of the hub: asserted %d times, %d doubts", asserted, doubts)
	}
}
