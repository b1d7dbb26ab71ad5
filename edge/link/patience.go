package link

import (
	"errors"
	"time"

	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
)

const (
	// refusalMax is the most that the edge waits after a server refused it.
	refusalMax = time.Minute
	// healthy is how long a session lasts that proves that the next one need not wait: one that is welcomed and ends at
	// once, because the disk is full or another machine has the same store, would else be tried twice a second for ever.
	healthy = time.Minute
)

// patience says how long to wait before the next connect.
type patience struct {
	// random returns a number in [0, 1).
	random   func() float64
	refusals int
	searches int // for a server that has room, in a row
}

// served takes note of a session that was welcomed and lasted that long.
func (p *patience) served(lasted time.Duration) {
	if lasted >= healthy {
		p.refusals, p.searches = 0, 0
	}
}

// soon is the wait where another try may succeed at once.
func (p *patience) soon() time.Duration {
	return time.Duration(p.random() * float64(500*time.Millisecond))
}

// full is the wait after a server has said for how long it has no room. If there may be some elsewhere that is asked for at once, and then,
// since those others may be gone, at growing intervals, up to what was said.
func (p *patience) full(said time.Duration, elsewhere bool) time.Duration {
	if !elsewhere {
		return said
	}
	ceiling := time.Second << min(p.searches, 10) / 2
	p.searches++
	return min(said, time.Duration(p.random()*float64(ceiling)))
}

// after returns the wait after an error. Lost networks are tried again at once (connect itself paces its attempts);
// refusals back off with full jitter. What a server without room says is the ways' to know.
func (p *patience) after(err error) time.Duration {
	var refused *transport.RefusedError
	switch {
	case errors.As(err, &refused):
	case errors.Is(err, errHandshake) || errors.Is(err, errUnwanted) || errors.Is(err, session.ErrProtocol) || errors.Is(err, errStore):
	default:
		return p.soon()
	}
	ceiling := min(time.Second<<min(p.refusals, 10), refusalMax)
	p.refusals++
	return 200*time.Millisecond + time.Duration(p.random()*float64(ceiling))
}
