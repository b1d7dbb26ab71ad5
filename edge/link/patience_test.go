package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// The longest wait after each of some failures in a row, with sessions of the given length in between.
func waits(err error, n int, lasted time.Duration) []time.Duration {
	p := patience{random: func() float64 { return 1 }}
	var out []time.Duration
	for range n {
		if lasted > 0 {
			p.served(lasted)
		}
		out = append(out, p.after(err))
	}
	return out
}

func TestAnEdgeBacksOffFromWhatWillNotChangeAtOnce(t *testing.T) {
	replaced := (&peer{l: &Link{}}).closed(session.Close{Reason: wire.Reason_REASON_REPLACED, Message: "the edge connected again"})
	for name, c := range map[string]struct {
		err    error
		lasted time.Duration
		grows  bool
	}{
		"a lost network":                             {err: errors.New("read: connection reset")},
		"a refused handshake":                        {err: fmt.Errorf("%w: closed", errHandshake), grows: true},
		"a refused upgrade":                          {err: &transport.RefusedError{}, grows: true},
		"a full disk right after the welcome":        {err: fmt.Errorf("%w: disk full", errStore), lasted: time.Second, grows: true},
		"another machine with the same store":        {err: replaced, lasted: time.Second, grows: true},
		"a network lost right after the welcome":     {err: errors.New("read: EOF"), lasted: time.Second},
		"a database that fails after a long session": {err: fmt.Errorf("%w: disk full", errStore), lasted: time.Hour},
	} {
		w := waits(c.err, 10, c.lasted)
		if last := w[len(w)-1]; (last > 30*time.Second) != c.grows || last > refusalMax+time.Second {
			t.Errorf("%s: waits %v, expected them to grow: %t", name, w, c.grows)
		}
	}
}

func TestTheFirstAttemptsFollowEachOtherFaster(t *testing.T) {
	for n := range quickAttempts {
		d := between(n + 1)
		if d < attemptMin/3 || d > attemptMax/3 {
			t.Errorf("pause %d is %s", n, d)
		}
	}
	if d := between(quickAttempts + 1); d < attemptMin || d > attemptMax {
		t.Errorf("a later pause is %s", d)
	}
}
