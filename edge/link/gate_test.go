package link

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

// testGate is a Gate in the hands of a test.
type testGate struct {
	mu      sync.Mutex // guards all below
	why     error
	changed chan struct{}
}

func newTestGate(why error) *testGate { return &testGate{why: why, changed: make(chan struct{})} }

func (g *testGate) State() (<-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed, g.why
}

func (g *testGate) set(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.why = why
	close(g.changed)
	g.changed = make(chan struct{})
}

// While the gate is shut nothing is dialled; a session that there is ends at once and without a word; and once the gate is open
// the link is tried again without a wait.
func TestAShutGateEndsTheSessionAndNothingIsDialled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newTestGate(errors.New("not yet"))
		dialled := 0
		var hub *cloud
		l, stop := start(t, &fakeStore{}, func(context.Context, Way) (transport.Stream, error) {
			dialled++
			edge, c := newCloud(t)
			hub = c
			return edge, nil
		}, func(d *Deps) { d.Gate = gate })
		defer stop()
		pass := func(d time.Duration) {
			time.Sleep(d) // fake: nothing waits for real
			synctest.Wait()
		}
		pass(time.Hour)
		if dialled != 0 || l.Status().Problem != "not yet" {
			t.Fatalf("dialled %d times at a shut gate, status %+v: expected none, and why", dialled, l.Status())
		}
		gate.set(nil)
		synctest.Wait()
		if dialled != 1 {
			t.Fatalf("dialled %d times as the gate opened, expected once, at once", dialled)
		}
		hub.welcome()
		synctest.Wait()
		if !l.Status().Connected {
			t.Fatalf("status %+v, expected a link", l.Status())
		}
		gate.set(errors.New("cut by a drill"))
		synctest.Wait()
		for f := range hub.got {
			if f.GetGoodbye() != nil {
				t.Errorf("the hub heard a goodbye: %v", f)
			}
		}
		if s := l.Status(); s.Connected || s.Problem != "cut by a drill" {
			t.Errorf("status %+v, expected no link, and why", s)
		}
		gate.set(errors.New("cut by another drill"))
		synctest.Wait()
		if s := l.Status(); s.Problem != "cut by another drill" {
			t.Errorf("status %+v, expected the new reason", s)
		}
		pass(24 * time.Hour)
		if dialled != 1 {
			t.Errorf("dialled %d times more at a shut gate", dialled-1)
		}
		gate.set(nil)
		synctest.Wait()
		if dialled != 2 {
			t.Fatalf("dialled %d times as the gate opened again, expected once more, at once", dialled)
		}
		hub.welcome()
		synctest.Wait()
		if !l.Status().Connected {
			t.Errorf("status %+v, expected a link", l.Status())
		}
		_ = hub.Close()
	})
}

// Attempts under way end, too, when the gate is shut.
func TestAShutGateEndsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newTestGate(nil)
		var mu sync.Mutex
		open := 0
		l, stop := start(t, &fakeStore{}, func(ctx context.Context, _ Way) (transport.Stream, error) {
			mu.Lock()
			open++
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			open--
			mu.Unlock()
			return nil, ctx.Err()
		}, func(d *Deps) { d.Gate = gate })
		defer stop()
		time.Sleep(10 * time.Second) // fake
		synctest.Wait()
		gate.set(errors.New("cut by a drill"))
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if open != 0 || !strings.Contains(l.Status().Problem, "cut by a drill") {
			t.Errorf("%d attempts are under way, status %+v: expected none, and why", open, l.Status())
		}
	})
}
