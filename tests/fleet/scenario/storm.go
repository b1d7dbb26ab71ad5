package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// storm takes the hub away from all edges at once, in two ways. A fleet that has just joined keeps the control plane busy for minutes, and one
// that has come back too: that is waited for, since a storm hits a fleet at work.
func storm(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.still(ctx); err != nil {
		return err
	}
	if err := w.rest(ctx, w.pick(30*time.Second, time.Second)); err != nil {
		return err
	}
	if err := w.hubKilled(ctx); err != nil {
		return fmt.Errorf("the hub is killed: %w", err)
	}
	if err := w.settled(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.still(ctx); err != nil {
		return err
	}
	if err := w.rest(ctx, w.pick(30*time.Second, time.Second)); err != nil {
		return err
	}
	if err := w.switchDies(ctx); err != nil {
		return fmt.Errorf("a switch dies: %w", err)
	}
	return w.settled(ctx, w.cfg.Nodes)
}

// hubKilled kills the hub and starts it with cold caches.
func (w *world) hubKilled(ctx context.Context) error {
	steady, err := w.memory(ctx)
	if err != nil {
		return err
	}
	before, err := w.status(ctx)
	if err != nil {
		return err
	}
	old, err := w.sessionsOfEdges(ctx)
	if err != nil {
		return err
	}
	w.say("killing the hub")
	if err := w.Cloud.Kill(); err != nil {
		return err
	}
	if err := w.Cloud.Restart(); err != nil {
		return err
	}
	started := time.Now()
	if err := w.CloudReady(ctx); err != nil {
		return err
	}
	reachable := time.Now()
	// Over QUIC nothing tells an edge that a hub is gone, until the next one does.
	err = w.until(ctx, "every edge to have lost the session", func(ctx context.Context) error {
		now, err := w.sessionsOfEdges(ctx)
		if err != nil {
			return err
		}
		n := 0
		for node, session := range now {
			if old[node] == session {
				n++
			}
		}
		if n > 0 {
			return fmt.Errorf("%d take themselves for connected", n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.figure("hub killed: until it is reachable", "s", reachable.Sub(started).Seconds(), "its own start with cold caches, beside edges that dial")
	if err := w.comeBack(ctx, "hub killed", reachable, steady, before.Dials, 0); err != nil {
		return err
	}
	s, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	return w.requestsOfStorm("hub killed", s)
}

// switchDies takes all cables out for so long that both ends notice.
func (w *world) switchDies(ctx context.Context) error {
	if err := forgetPeak(w.Cloud.PID()); err != nil {
		return err
	}
	steady, err := w.memory(ctx)
	if err != nil {
		return err
	}
	earlier, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	before, err := w.status(ctx)
	if err != nil {
		return err
	}
	w.say("taking all cables out")
	if err := w.cut(); err != nil {
		return err
	}
	if err := w.rest(ctx, w.pick(time.Minute, time.Second)); err != nil {
		return err
	}
	err = w.until(ctx, "every edge to notice", func(ctx context.Context) error {
		s, err := w.status(ctx)
		if err == nil && s.Connected > 0 {
			err = fmt.Errorf("%d take themselves for connected", s.Connected)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := w.heal(ctx); err != nil {
		return err
	}
	w.profile(ctx, 10*time.Second)
	if err := w.comeBack(ctx, "switch dead", time.Now(), steady, before.Dials, earlier.sum("tether_hub_abandoned_total")); err != nil {
		return err
	}
	s, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	return w.requestsOfStorm("switch dead", s.since(earlier))
}

// comeBack waits until all edges are synced again and each node is claimed for its new session, which the hub does in its own time, and shows
// what that took.
func (w *world) comeBack(ctx context.Context, what string, since time.Time, steady memory, dials int, left float64) error {
	at, err := w.synced(ctx, w.cfg.Nodes)
	if err != nil {
		return err
	}
	if err := w.held(ctx); err != nil {
		return err
	}
	claimed := time.Now()
	m, err := w.memory(ctx)
	if err != nil {
		return err
	}
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
	w.figure(what+": until each Lease names the session", "s", claimed.Sub(since).Seconds(), "what follows is counted until then")
	w.target(what+": until all are synced", "s", at.Sub(since).Seconds(), 20, "since the hub is reachable; the edges' own work on the same cores included")
	w.target(what+": peak memory of the hub", "of the steady one", m.peak/steady.resident, 1.5, fmt.Sprintf("%.0f MiB, before %.0f", m.peak/(1<<20), steady.resident/(1<<20)))
	hub, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	w.figure(what+": attempts to connect per edge", "", float64(s.Dials-dials)/float64(w.cfg.Nodes))
	w.figure(what+": connections that edges left, per edge", "", (hub.sum("tether_hub_abandoned_total")-left)/float64(w.cfg.Nodes), "a handshake each that came after another of the same edge")
	return nil
}

// fixedRequests bounds the requests of a storm that are not one for each node: lists and watches of every kind, rights and
// identity asked for at the start, reads that several edges share.
const fixedRequests = 60

// requestsOfStorm shows what the hub asked of the API server. What grows with the fleet is Leases and Nodes.
func (w *world) requestsOfStorm(what string, s series) error {
	perNode := func(resource string) bool {
		return strings.HasPrefix(resource, "leases.") || resource == "nodes" || resource == "nodes/status"
	}
	writes, reads, rest, other := 0.0, 0.0, 0.0, map[string]float64{}
	lists := map[string]float64{}
	for key, n := range s {
		if !s.is(key, "tether_api_requests_total", nil) || n == 0 {
			continue
		}
		verb, resource := label(key, "verb"), label(key, "resource")
		all := verb == "list" || verb == "watch"
		if all {
			lists[resource] += n
		}
		switch {
		case perNode(resource) && verb == "get":
			reads += n
		case perNode(resource) && !all:
			writes += n
		default:
			rest += n
			other[verb+" "+resource] += n
		}
	}
	nodes := float64(w.cfg.Nodes)
	if writes < nodes {
		return fmt.Errorf("%s: the hub counts %.0f writes to Leases and Nodes, expected a claim of each of %.0f at least: nothing can be told from its counters", what, writes, nodes)
	}
	w.figure(what+": writes to Leases and Nodes, per node", "", writes/nodes, "a claim, and renewals until all are claimed; a status where the node controller had changed it, a label where there was none")
	w.promise(what+": reads of single Leases and Nodes, per node", "", reads/nodes, 1)
	w.promise(what+": all other requests to the API server", "", rest, fixedRequests, most(other))
	const page = 500 // of Leases, which are read once
	lists["leases.coordination.k8s.io"] -= float64((w.cfg.Nodes - 1) / page)
	w.promise(what+": lists and watches of one kind, most", "", slices.Max(slices.Collect(maps.Values(lists))), 3, "each kind has one cache, listed by a watch; Secrets have a second one, for trust. Pages of Leases but the first are left out")
	return nil
}

// most names the largest counts.
func most(counts map[string]float64) string {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return int(counts[b] - counts[a]) })
	var words []string
	for _, k := range keys[:min(len(keys), 6)] {
		words = append(words, fmt.Sprintf("%s %.0f", k, counts[k]))
	}
	return strings.Join(words, ", ")
}
