package link

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

// A Server is one CloudCore's address by each protocol, as host:port. QUIC is empty where it has none.
type Server struct{ WebSocket, QUIC string }

// A Way is one address of a CloudCore by one protocol.
type Way struct {
	Protocol transport.Protocol
	// Server is the host:port, of UDP for QUIC and of TCP for WebSocket.
	Server string
}

const (
	// headStart is what QUIC has before WebSocket in a race. It needs a round trip less, so what it does not reach by
	// then and WebSocket does is mostly UDP that is dropped.
	headStart = 300 * time.Millisecond
	// demotion is for how long WebSocket goes alone after QUIC failed where WebSocket did not; it doubles each time.
	demotion, demotionMax = 5 * time.Minute, 6 * time.Hour
	// proven is how long a session over QUIC lasts that makes its earlier failures forgotten.
	proven = 10 * time.Minute
)

// ways says in which order a node's servers are tried, and by which protocol. With both it is a race: QUIC begins, and
// WebSocket follows after a head start, or at once if QUIC failed. It belongs to the goroutine of Link.Start.
type ways struct {
	servers []Server
	// byQUIC and byWebSocket are what the configuration allows.
	byQUIC, byWebSocket bool
	now                 func() time.Time

	round int
	// left is the server that sent this edge away, which is tried last; empty if none did.
	left string
	// full are the servers that had no room, by their addresses for WebSocket, until when they said so. They are tried after all others.
	full      map[string]time.Time
	demoted   time.Time // until then QUIC is not tried if there is another way
	demotions int
	// silent is when a session over QUIC that had stood for a while fell silent; zero if the last one ended otherwise.
	silent time.Time
}

// shuffle puts the servers into a new order, so that the edges of a site spread over CloudCores and one that is gone is
// not every edge's first. One that sent this edge away comes after those, and such as have no room last.
func (w *ways) shuffle() {
	rand.Shuffle(len(w.servers), func(i, j int) { w.servers[i], w.servers[j] = w.servers[j], w.servers[i] })
	rank := func(s Server) int {
		switch {
		case w.now().Before(w.full[s.WebSocket]):
			return 2
		case s.has(w.left):
			return 1
		}
		return 0
	}
	slices.SortStableFunc(w.servers, func(a, b Server) int { return rank(a) - rank(b) })
	w.left = ""
	w.round = 0
}

// has reports whether that is one of the server's addresses.
func (s Server) has(address string) bool {
	return address != "" && (s.WebSocket == address || s.QUIC == address)
}

// fullest is the longest that a server is taken for full, whatever it says.
const fullest = 10 * time.Minute

// refused takes note of how a server refused this edge. full is for how long there is no room, which is what that one said, or, where none of
// the others has any, how long it is until the first of all may have some; 0 if it is not room that lacks. elsewhere tells that another one may
// have some now.
func (w *ways) refused(by Way, err error) (full time.Duration, elsewhere bool) {
	var e *transport.RefusedError
	if !errors.As(err, &e) || e.RetryAfter <= 0 {
		return 0, false
	}
	now := w.now()
	said := min(e.RetryAfter, fullest)
	first := now.Add(said)
	for _, s := range w.servers {
		if s.has(by.Server) {
			if w.full == nil {
				w.full = map[string]time.Time{}
			}
			w.full[s.WebSocket] = now.Add(said)
		}
		if until := w.full[s.WebSocket]; until.Before(first) {
			first = until
		}
	}
	if !first.After(now) {
		return said, true
	}
	return first.Sub(now), false
}

// next returns the ways to race to the next server: one, or QUIC and then WebSocket.
func (w *ways) next() []Way {
	s := w.servers[w.round%len(w.servers)]
	w.round++
	ws, quic := Way{transport.WebSocket, s.WebSocket}, Way{transport.QUIC, s.QUIC}
	switch {
	case !w.byQUIC || quic.Server == "":
		return []Way{ws}
	case !w.byWebSocket:
		return []Way{quic}
	case w.now().Before(w.demoted):
		return []Way{ws}
	}
	return []Way{quic, ws}
}

// quicOf returns the way by QUIC to the server that is reached by w.
func (w *ways) quicOf(ws Way) Way {
	for _, s := range w.servers {
		if s.WebSocket == ws.Server {
			return Way{transport.QUIC, s.QUIC}
		}
	}
	return Way{}
}

// connected takes note of who won; raced reports that QUIC was tried too.
func (w *ways) connected(p transport.Protocol, raced bool) {
	// Connected again so soon after a silence, the network was well, and QUIC was not: next time it waits.
	deceived := p == transport.QUIC && !w.silent.IsZero() && w.now().Sub(w.silent) < atOnce
	w.silent = time.Time{}
	if deceived || p == transport.WebSocket && raced {
		w.demote()
	}
}

// atOnce is how soon after a silence a connect tells that the network had not been cut.
const atOnce = 5 * time.Second

// ended takes note of how a session went: QUIC can also fail after it has connected, where only small packets pass or UDP
// is cut after a while.
func (w *ways) ended(p transport.Protocol, end ended, lasted time.Duration) {
	if p != transport.QUIC {
		return
	}
	if lasted >= proven {
		w.demotions, w.demoted = 0, time.Time{}
	}
	switch {
	case !errors.Is(end.err, errSilent):
	case !end.welcomed || lasted < healthy: // silent from its beginning
		w.demote()
	default:
		w.silent = w.now()
	}
}

// sent takes note that a server sent this edge away.
func (w *ways) sent(away Way) { w.left = away.Server }

func (w *ways) demote() {
	w.demoted = w.now().Add(min(demotion<<min(w.demotions, 16), demotionMax))
	w.demotions++
}
