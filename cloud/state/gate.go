package state

import (
	"context"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// The gate. The kinds have a watch each, and one may be behind another: a pod can arrive before the ConfigMap that was
// created before it. If that ConfigMap is optional the kubelet would start the pod without it, for good. So a pod that
// is new on a node and refers to something that is absent here is held back until a live read says that it is absent
// there too, or the watch brings it.

// A hold keeps one incarnation of a pod on one node out of sight.
type hold struct {
	pod     *entry
	missing map[*entry]struct{}
}

// A lookup finds out whether one absent object exists.
type lookup struct {
	entry *entry
	// asked are the holds that the running read answers; queued came after it began and need the next one, since the
	// object may have been created in between.
	asked, queued []*hold
	// want is the resourceVersion at which a live read found the object; 0 before.
	want uint64
	// settled is closed when the watch has brought the object, or has passed want without it.
	settled chan struct{}
	over    bool
}

// gated tells for which kinds absence makes a difference to a pod that starts. The kubelet itself waits for volumes
// and claims to be there, but it answers what it may not find with the absence of the pod's needs.
func gated(id object.ID) bool {
	switch id {
	case object.ConfigMaps, object.Secrets, object.ServiceAccounts, object.PersistentVolumeClaims:
		return true
	}
	return false
}

// gateNode checks the pods of a node that came while nobody looked.
func (g *graph) gateNode(n *nodeState, ch *changes) {
	if len(n.subs) == 0 {
		return
	}
	for e := range n.pods {
		if e.rel.unchecked {
			g.gate(e, ch)
		}
	}
}

// gate holds a pod back if something that it refers to is absent.
func (g *graph) gate(pod *entry, ch *changes) {
	if !pod.rel.unchecked {
		return
	}
	pod.rel.unchecked = false
	h := &hold{pod: pod, missing: map[*entry]struct{}{}}
	for _, r := range pod.rel.refs {
		if gated(r.kind.id) && !r.present() {
			h.missing[r] = struct{}{}
		}
	}
	if len(h.missing) == 0 {
		return
	}
	pod.rel.hold = h
	for m := range h.missing {
		l := m.kind.waits[m]
		if l == nil {
			l = &lookup{entry: m, settled: make(chan struct{})}
			m.kind.waits[m] = l
			ch.lookups = append(ch.lookups, l)
		}
		l.queued = append(l.queued, h)
	}
}

// cancelHold lets go of a pod that is leaving its node.
func (r *relations) cancelHold() {
	if r.hold != nil {
		clear(r.hold.missing)
		r.hold = nil
	}
}

// release takes m off what a pod waits for.
func (g *graph) release(h *hold, m *entry, ch *changes) {
	if _, ok := h.missing[m]; !ok {
		return
	}
	delete(h.missing, m)
	rel := h.pod.rel
	if len(h.missing) > 0 || rel == nil || rel.hold != h {
		return
	}
	rel.hold = nil
	ch.to(rel.node, h.pod)
}

// arrived ends the waiting for an object that has come.
func (g *graph) arrived(e *entry, ch *changes) {
	l := e.kind.waits[e]
	if l == nil {
		return
	}
	for _, h := range l.asked {
		g.release(h, e, ch)
	}
	for _, h := range l.queued {
		g.release(h, e, ch)
	}
	l.asked, l.queued = nil, nil
	l.settle()
	delete(e.kind.waits, e)
}

func (l *lookup) settle() {
	if !l.over {
		l.over = true
		close(l.settled)
	}
}

// advance notes that the list and watch of a kind have come to rv.
func (g *graph) advance(k *kindState, rv uint64) {
	k.revision.Store(rv)
	for _, l := range k.waits {
		if l.want != 0 && rv >= l.want {
			l.settle()
		}
	}
}

// finish releases whoever the read answered. more tells to read again for those who came later.
func (g *graph) finish(l *lookup, ch *changes) (more bool) {
	for _, h := range l.asked {
		g.release(h, l.entry, ch)
	}
	l.asked = nil
	if len(l.queued) > 0 {
		l.want, l.over, l.settled = 0, false, make(chan struct{})
		return true
	}
	if l.entry.kind.waits[l.entry] == l {
		delete(l.entry.kind.waits, l.entry)
		l.entry.drop()
	}
	return false
}

// startLookup runs a lookup in a goroutine that Start waits for.
func (c *Cache) startLookup(l *lookup) {
	c.mu.Lock()
	ctx := c.running
	if ctx != nil {
		c.jobs.Add(1)
	}
	c.mu.Unlock()
	if ctx == nil {
		return // stopping: views are of no use any more
	}
	go func() {
		defer c.jobs.Done()
		for more := true; more && ctx.Err() == nil; {
			outcome := c.look(ctx, l)
			c.m.lookups.WithLabelValues(string(l.entry.kind.id), outcome).Inc()
			var ch changes
			c.mu.Lock()
			more = c.g.finish(l, &ch)
			c.mu.Unlock()
			c.publish(&ch)
		}
	}()
}

// look reads once and, if the object exists, waits for the watch to bring it. It returns the outcome as a metric label.
func (c *Cache) look(ctx context.Context, l *lookup) string {
	rctx, cancel := context.WithTimeout(ctx, c.cfg.LookupTimeout)
	defer cancel()
	select {
	case c.sem <- struct{}{}:
	case <-rctx.Done():
		c.begin(l)
		return "busy"
	}
	c.begin(l)
	rv, err := c.deps.Source.Exists(rctx, l.entry.key())
	<-c.sem
	if err != nil {
		c.deps.Log.Warn("cannot look up what a pod refers to: the pod is sent without it", "key", l.entry.key().String(), "err", err)
		return "error"
	}
	if rv == 0 {
		return "absent"
	}
	c.mu.Lock()
	l.want = rv
	if l.entry.kind.revision.Load() >= rv {
		l.settle()
	}
	settled := l.settled
	c.mu.Unlock()
	late := time.NewTimer(c.cfg.HoldTimeout)
	defer late.Stop()
	select {
	case <-settled:
		return "arrived"
	case <-ctx.Done():
		return "stopped"
	case <-late.C:
		c.deps.Log.Warn("the watch did not bring what a pod refers to: the pod is sent without it", "key", l.entry.key().String())
		return "late"
	}
}

// begin makes the queued holds those that the coming read answers.
func (c *Cache) begin(l *lookup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.asked = append(l.asked, l.queued...)
	l.queued = nil
}
