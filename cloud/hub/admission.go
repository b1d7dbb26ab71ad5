package hub

import (
	"crypto/x509"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/tether-edge/tether/common/pki"
)

// admit says how long an edge should stay away; 0 lets it in. A node that has a session takes no place of a full hub.
func (h *Hub) admit(peer *x509.Certificate) time.Duration {
	switch {
	case !h.deps.Caches.Synced():
		h.metrics.refused.WithLabelValues("not_ready").Inc()
		return spread(2 * time.Second)
	case h.Count() >= h.cfg.MaxSessions && !h.has(peer):
		h.metrics.refused.WithLabelValues("overloaded").Inc()
		return spread(time.Minute)
	}
	node, err := pki.NodeName(peer)
	if err != nil || h.revoked(node, peer) {
		return 0 // it is told so where there is room for words, and takes nobody's turn
	}
	wait := h.admission.ask(node, h.deps.Now())
	if wait > 0 {
		h.metrics.refused.WithLabelValues("paced").Inc()
	}
	return wait
}

// waitingRoom returns how many connections may wait for their handshake: what is left of three quarters of the files that the process may
// have, since an edge that is turned away comes again at once, with ten thousand others. Each is a file, as a session is.
func (h *Hub) waitingRoom() func() int {
	const least, most = 1 << 10, 1 << 16
	files := uint64(4 * most)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil { // it fails for no resource that there is
		files = min(files, limit.Cur)
	}
	return func() int { return max(least, min(most, int(files/4*3)-h.Count())) }
}

// has reports whether there is a session of the peer's node, as one whose end was not noticed yet.
func (h *Hub) has(peer *x509.Certificate) bool {
	if peer == nil {
		return false
	}
	node, err := pki.NodeName(peer)
	h.mu.Lock()
	defer h.mu.Unlock()
	return err == nil && h.sessions[node] != nil
}

// admission bounds the rate of new sessions: each brings reads, a claim of its node and often a status. Who comes beyond it is told when to
// come back: at random within the time that those take who were told so before, and have not come in.
type admission struct {
	bucket *rate.Limiter // nil for no bound

	mu     sync.Mutex // guards what follows
	away   map[string]time.Time
	let    map[string]letIn
	pruned time.Time
}

// letIn is when a node was let in last, and how often within a second: one may try two ways at once, and one that tries all the time must not
// take the others' turns.
type letIn struct {
	at    time.Time
	times int
}

// waysAtOnce is how often a node is let in within a second.
const waysAtOnce = 4

const (
	// mostAway bounds what an edge is told: an operator who starts another CloudCore must not wait for long.
	mostAway = time.Minute
	// forgetAway is when an edge that was told so and did not come back is forgotten.
	forgetAway = 2 * mostAway
)

// newAdmission lets that many in a second, and a second's worth more at once after rest; 0 is no bound.
func newAdmission(perSecond float64) *admission {
	a := &admission{away: map[string]time.Time{}, let: map[string]letIn{}}
	if perSecond > 0 {
		a.bucket = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
	}
	return a
}

// ask returns 0 if the node may connect now, or how long to stay away.
func (a *admission) ask(node string, now time.Time) time.Duration {
	if a.bucket == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.let[node]; now.Sub(l.at) < time.Second && l.times > 0 {
		if l.times++; l.times > waysAtOnce {
			return time.Second
		}
		a.let[node] = l
		return 0
	}
	a.prune(now)
	if a.bucket.AllowN(now, 1) {
		delete(a.away, node)
		a.let[node] = letIn{now, 1}
		return 0
	}
	a.away[node] = now
	within := min(mostAway-time.Second, time.Duration(float64(len(a.away))/float64(a.bucket.Limit())*float64(time.Second)))
	return time.Second + time.Duration(rand.Int64N(int64(within)+1))
}

// in notes that a node has a session: it stays away no longer.
func (a *admission) in(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.away, node)
}

// prune forgets who did not come back, and who came long ago. Called with mu held.
func (a *admission) prune(now time.Time) {
	if d := now.Sub(a.pruned); d >= 0 && d < mostAway {
		return
	}
	a.pruned = now
	maps.DeleteFunc(a.let, func(_ string, l letIn) bool { return now.Sub(l.at) >= time.Second })
	maps.DeleteFunc(a.away, func(_ string, told time.Time) bool { d := now.Sub(told); return d < 0 || d > forgetAway })
}
