package hub

import (
	"crypto/x509"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

// admit says how long an edge should stay away; 0 lets it in. A node that has a session takes nobody's place.
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
	if err != nil {
		return 0 // it is told so where there is room for words
	}
	wait := h.admission.ask(node, h.deps.Now())
	if wait > 0 {
		h.metrics.refused.WithLabelValues("paced").Inc()
	}
	return wait
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

// admission bounds the rate of new sessions: each brings reads, a claim of its node and often a status. An edge that comes too early gets
// an appointment, at which it is let in whoever else comes then: so each is sent away once at most, and the last of a storm knows when
// it is its turn.
type admission struct {
	each time.Duration // between two, 0 for no bound

	// mu guards all below.
	mu       sync.Mutex
	next     time.Time            // the first time that nobody has
	promised map[string]time.Time // by node
	pruned   time.Time
}

const (
	// admissionBurst is how much of time that nobody used is kept.
	admissionBurst = time.Second
	// early is how much before its time an edge is let in: it is told whole seconds.
	early = time.Second
	// admissionGrace is how long an appointment is kept for an edge that does not come.
	admissionGrace = time.Minute
)

// newAdmission lets that many in a second; 0 is no bound.
func newAdmission(rate float64) *admission {
	a := &admission{promised: map[string]time.Time{}}
	if rate > 0 {
		a.each = time.Duration(float64(time.Second) / rate)
	}
	return a
}

// ask returns 0 if the node may connect now, or how long it is until it may.
func (a *admission) ask(node string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.each == 0 {
		return 0
	}
	a.prune(now)
	if at, ok := a.promised[node]; ok {
		if wait := at.Sub(now); wait > early {
			return wait
		}
		delete(a.promised, node)
		return 0
	}
	// A clock that was set back must not close the hub for as long.
	if earliest := now.Add(-admissionBurst); a.next.Before(earliest) || len(a.promised) == 0 && a.next.After(now.Add(a.each)) {
		a.next = earliest
	}
	at := a.next
	a.next = at.Add(a.each)
	if !at.After(now) {
		return 0
	}
	a.promised[node] = at
	return at.Sub(now)
}

// prune forgets the appointments that were missed. Called with mu held.
func (a *admission) prune(now time.Time) {
	if d := now.Sub(a.pruned); d >= 0 && d < admissionGrace {
		return
	}
	a.pruned = now
	for node, at := range a.promised {
		if d := at.Sub(now); d < -admissionGrace || d > time.Hour {
			delete(a.promised, node)
		}
	}
}
