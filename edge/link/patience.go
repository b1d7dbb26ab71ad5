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
}

// served takes note of a session that was welcomed and lasted that long.
func (p *patience) served(lasted time.Duration) {
	if lasted >= healthy {
		p.refusals = 0
	}
}

// after returns the wait after an error. Lost networks are tried again at once (connect itself paces its attempts);
// refusals back off with full jitter.
func (p *patience) after(err error) time.Duration {
	var refused *transport.RefusedError
	switch {
	case errors.As(err, &refused):
		if refused.RetryAfter > 0 {
			return min(refused.RetryAfter, 10*time.Minute)
		}
	case errors.Is(err, errHandshake) || errors.Is(err, errUnwanted) || errors.Is(err, session.ErrProtocol) || errors.Is(err, errStore):
	default:
		return time.Duration(p.random() * float64(500*time.Millisecond))
	}
	ceiling := min(time.Second<<min(p.refusals, 10), refusalMax)
	p.refusals++
	return 200*time.Millisecond + time.Duration(p.random()*float64(ceiling))
}
