package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

const (
	// attemptLife is how long one attempt may take: TCP and TLS need about four round trips, and a satellite link
	// with heavy loss takes its time for each.
	attemptLife = 30 * time.Second
	// queuedLife is how long one may take that the server has taken, and has not spoken on yet: with ten thousand edges it may be some time
	// until its turn comes, and who gives it up goes to the end of the queue.
	queuedLife = 90 * time.Second
	// Between two attempts pass attemptMin to attemptMax, at random, so that the edges of a site do not come together.
	attemptMin, attemptMax = 500 * time.Millisecond, 3 * time.Second
	// quickAttempts is how many first attempts follow each other three times as fast: most servers that are gone are back,
	// or are replaced, within two seconds.
	quickAttempts = 5
	// maxAttempts bounds those under way.
	maxAttempts = 16
	// queued is how long a server that took the connection, and has not spoken yet, is left in peace, about: it is busy with the edges
	// that came before, and another connection would only wait behind this one. It doubles with each.
	queued = 3 * time.Second
	// mostPeace is the most that a server is left in peace.
	mostPeace = 30 * time.Second
)

type attempt struct {
	stream transport.Stream
	way    Way
	err    error
	// arrival is nil for QUIC, which has none.
	arrival *arrival
}

// race is one connect: the attempts that are under way.
type race struct {
	l       *Link
	ctx     context.Context // ends every attempt
	results chan attempt
	open    map[transport.Protocol]int
	begun   int
	// latest is when the last attempt at each server began.
	latest   map[string]time.Time
	arrivals *arrivals
	// peace is what a server that has taken one connection is given.
	peace time.Duration
	// pending is what is left of the race to the present server.
	pending []Way
	// quic: QUIC was tried; busy: a server that answers had no room for it, which says nothing of UDP.
	quic, busy bool
	// refusal is QUIC's, while WebSocket may still undo it.
	refusal *attempt
}

// verdict is how long WebSocket has to undo a refusal by QUIC.
const verdict = 5 * time.Second

// connect dials the servers in turn. While attempts end by time or because the network says no, new ones start
// without older ones being given up, and the first to finish wins; see ways for the protocols. It returns the error of an
// attempt that was refused, since that will not change at once, and else only when ctx is done.
func (l *Link) connect(ctx context.Context) (transport.Stream, Way, error) {
	actx, cancel := context.WithCancel(ctx)
	r := &race{l: l, ctx: actx, results: make(chan attempt), open: map[transport.Protocol]int{}, latest: map[string]time.Time{}, arrivals: newArrivals(), peace: queued/2 + rand.N(queued)}
	// Attempts that lose are ended, and waited for so that none is left behind.
	defer func() {
		cancel()
		r.drain()
	}()
	l.ways.shuffle()
	timer := time.NewTimer(r.begin())
	defer timer.Stop()
	var judged <-chan time.Time
	for {
		select {
		case a := <-r.results:
			r.over(a)
			if a.err == nil {
				return r.won(a)
			}
			if refused := r.refused(a); refused != nil {
				return nil, refused.way, refused.err
			}
			peace := errors.Is(a.err, errInPeace)
			if !peace {
				l.note(a.err)
			}
			if len(r.pending) > 0 && !peace {
				timer.Reset(0) // WebSocket's turn: QUIC needs no head start any more
			}
			if r.refusal != nil && judged == nil {
				judged = time.After(verdict)
			}
		case <-judged:
			return nil, r.refusal.way, r.refusal.err
		case <-timer.C:
			if r.refusal != nil && len(r.pending) == 0 {
				continue // a server that said no is not asked again meanwhile
			}
			timer.Reset(r.begin())
		case <-ctx.Done():
			return nil, Way{}, fmt.Errorf("connect: %w", ctx.Err())
		}
	}
}

// begin starts the next attempt, unless too many are under way or each server has taken one and is given time, and says when to start another.
func (r *race) begin() time.Duration {
	if r.total() < maxAttempts {
		if len(r.pending) == 0 {
			next, wait := r.choose()
			if wait > 0 {
				return wait
			}
			r.pending = next
		}
		r.dial(r.pending[0])
		r.pending = r.pending[1:]
	}
	if len(r.pending) > 0 {
		return headStart
	}
	return between(r.begun)
}

// choose returns the ways to the next server that has taken no connection yet, or had its time to speak on those it has: what took one may be
// something on the way, or hang. Where there is none it says how long to wait.
func (r *race) choose() (next []Way, wait time.Duration) {
	wait = attemptMax // an attempt may end meanwhile
	for range r.l.ways.servers {
		next = r.l.ways.next()
		server := next[len(next)-1].Server
		left := r.arrivals.left(server, r.latest[server], r.peace)
		if left == 0 {
			return next, 0
		}
		wait = min(wait, left)
	}
	return nil, wait
}

// over takes note of an attempt that has ended.
func (r *race) over(a attempt) {
	r.open[a.way.Protocol]--
	if a.arrival != nil {
		r.arrivals.over(a.arrival, errors.Is(a.err, transport.ErrRefused))
	}
}

func (r *race) dial(way Way) {
	r.latest[way.Server] = time.Now()
	r.open[way.Protocol]++
	r.begun++
	r.quic = r.quic || way.Protocol == transport.QUIC
	r.l.metrics.attempts.WithLabelValues(string(way.Protocol)).Inc()
	var this *arrival
	life := attemptLife
	if way.Protocol != transport.QUIC {
		life = queuedLife
	}
	ctx, stop := context.WithTimeout(r.ctx, life)
	ctx, giveUp := context.WithCancelCause(ctx)
	if way.Protocol != transport.QUIC {
		this = r.arrivals.begin(way.Server, giveUp)
	}
	go func() {
		defer stop()
		at := ctx
		if this != nil {
			// One that the server has not taken by then is given up.
			unreached := time.AfterFunc(attemptLife, func() {
				if !r.arrivals.reached(this) {
					stop()
				}
			})
			defer unreached.Stop()
			at = transport.WithArrival(ctx, func() error { return r.arrivals.arrive(this, r.peace) })
		}
		stream, err := r.l.deps.Dial(at, way)
		if err != nil && errors.Is(context.Cause(ctx), errInPeace) {
			err = errInPeace
		}
		giveUp(nil)
		r.results <- attempt{stream, way, err, this}
	}()
}

func (r *race) total() int { return r.open[transport.QUIC] + r.open[transport.WebSocket] }

// drain waits for the attempts under way, whose context has ended.
func (r *race) drain() {
	for r.total() > 0 {
		a := <-r.results
		r.over(a)
		if a.stream != nil {
			_ = a.stream.Close()
		}
	}
}

// refused returns the refusal that ends the race, if there is one after a failed attempt. QUIC's alone proves little:
// WebSocket is asked too, and where it does not get through QUIC's counts.
func (r *race) refused(a attempt) *attempt {
	refused := errors.Is(a.err, transport.ErrRefused)
	if a.way.Protocol == transport.QUIC {
		var e *transport.RefusedError
		r.busy = r.busy || errors.Is(a.err, transport.ErrBusy) || errors.As(a.err, &e) && e.RetryAfter > 0
		if refused && r.open[transport.QUIC] == 0 {
			r.refusal = &a
		}
	}
	switch {
	case len(r.pending) > 0 || r.open[transport.WebSocket] > 0:
		return nil
	case refused && a.way.Protocol == transport.WebSocket:
		return &a
	}
	return r.refusal
}

// won returns the stream of the attempt that was first. Where WebSocket won against QUIC, a fresh attempt of QUIC has a
// moment to overtake it: after a cut the first packets of each to get through come in any order.
func (r *race) won(a attempt) (transport.Stream, Way, error) {
	if a.way.Protocol == transport.WebSocket && r.open[transport.QUIC] > 0 {
		if q, ok := r.overtake(a.way); ok {
			_ = a.stream.Close()
			a = q
		}
	}
	r.l.ways.connected(a.way.Protocol, r.quic && !r.busy)
	return a.stream, a.way, nil
}

// overtaking is how long QUIC has for that.
const overtaking = 500 * time.Millisecond

func (r *race) overtake(winner Way) (attempt, bool) {
	if quic := r.l.ways.quicOf(winner); quic.Server != "" {
		r.dial(quic)
	}
	timer := time.NewTimer(overtaking)
	defer timer.Stop()
	for r.open[transport.QUIC] > 0 {
		select {
		case a := <-r.results:
			r.over(a)
			switch {
			case a.err == nil && a.way.Protocol == transport.QUIC:
				return a, true
			case a.err == nil:
				_ = a.stream.Close()
			}
		case <-timer.C:
			return attempt{}, false
		case <-r.ctx.Done():
			return attempt{}, false
		}
	}
	return attempt{}, false
}

// between is the pause after the nth attempt.
func between(n int) time.Duration {
	d := attemptMin + time.Duration(rand.Int64N(int64(attemptMax-attemptMin)))
	if n <= quickAttempts {
		d /= 3
	}
	return d
}

// note keeps the latest reason for people who ask.
func (l *Link) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Problem != err.Error() {
		l.status.Problem = err.Error()
		l.deps.Log.Info("no link yet", "error", err)
	}
}
