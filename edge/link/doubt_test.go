package link

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// A disk that has no room for what is to be written again keeps no session from being: that may bring what gives room back. It is written
// as soon as there is room, in that session or, where that ended before, in the next one.
func TestWhatHasNoRoomToBeWrittenAgainIsWrittenLater(t *testing.T) {
	for name, c := range map[string]struct {
		epoch string // of the hub
		doubt func(*Link)
	}{
		"the cluster went back in time":   {"after", func(*Link) {}},
		"another machine had its session": {"before", func(l *Link) { l.displaced = true }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fakeStore{epoch: "before", full: true}
				hubs := make(chan *cloud, 10)
				doubts := 0
				gate := newTestGate(nil)
				gate.set(context.Canceled)
				l, stop := start(t, s, func(context.Context, Way) (transport.Stream, error) {
					edge, c := newCloud(t)
					hubs <- c
					return edge, nil
				}, func(d *Deps) { d.Gate, d.Doubted = gate, func() { doubts++ } })
				defer stop()
				c.doubt(l)
				gate.set(nil)
				connect := func() *cloud {
					hub := <-hubs
					if f := <-hub.got; f.GetHello() == nil {
						t.Fatalf("the first frame is %v, expected a hello", f)
					}
					hub.send(&wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{Version: wire.Version, Session: "s1", Epoch: c.epoch}}})
					synctest.Wait()
					if !l.Status().Connected {
						t.Fatalf("status %+v, expected a link", l.Status())
					}
					return hub
				}
				has := func(when string, tries, asserted int) {
					t.Helper()
					synctest.Wait()
					s.mu.Lock()
					defer s.mu.Unlock()
					if s.tries != tries || s.asserted != asserted {
						t.Errorf("%s: %d tries, %d of them written, expected %d and %d", when, s.tries, s.asserted, tries, asserted)
					}
				}
				minute := func(hub *cloud) {
					for range 6 {
						hub.send(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{}}})
						time.Sleep(10 * time.Second) // fake
					}
				}
				hub := connect()
				has("at the connect", 1, 0)
				minute(hub)
				has("a minute later", 2, 0)
				_ = hub.Close()
				hub = connect()
				has("at the next connect", 3, 0)
				s.mu.Lock()
				s.full = false
				s.mu.Unlock()
				minute(hub)
				has("when there is room", 4, 1)
				minute(hub)
				has("and then", 4, 1)
				if doubts != 2 {
					t.Errorf("the devices were told of %d doubts, expected one each connect", doubts)
				}
				_ = hub.Close()
				hub = connect()
				has("at a connect after that", 4, 1)
				_ = hub.Close()
			})
		})
	}
}
