package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// storm takes the hub away from all edges at once, in two ways.
func storm(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
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
	w.figure("hub killed: until it is reachable", "s", reachable.Sub(started).Seconds(), "its own start with cold caches, beside edges that dial")
	if err := w.comeBack(ctx, "hub killed", reachable, steady, before.Dials, 0); err != nil {
		return err
	}
	s, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	w.requestsOfStorm("hub killed", s)
	return nil
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
	if err := w.comeBack(ctx, "switch dead", time.Now(), steady, before.Dials, earlier.sum("tether_hub_abandoned_total")); err != nil {
		return err
	}
	s, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	w.requestsOfStorm("switch dead", s.since(earlier))
	return nil
}

// comeBack waits until all edges are synced again, and shows what that took.
func (w *world) comeBack(ctx context.Context, what string, since time.Time, steady memory, dials int, left float64) error {
	at, err := w.synced(ctx, w.cfg.Nodes)
	if err != nil {
		return err
	}
	m, err := w.memory(ctx)
	if err != nil {
		return err
	}
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
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
func (w *world) requestsOfStorm(what string, s series) {
	perNode := func(resource string) bool {
		return strings.HasPrefix(resource, "leases.") || resource == "nodes" || resource == "nodes/status"
	}
	each, rest, other := 0.0, 0.0, map[string]float64{}
	lists := map[string]float64{}
	for key, n := range s {
		if !s.is(key, "tether_api_requests_total", nil) || n == 0 {
			continue
		}
		verb, resource := label(key, "verb"), label(key, "resource")
		if verb == "list" || verb == "watch" {
			lists[resource] += n
		}
		if perNode(resource) && verb != "list" && verb != "watch" {
			each += n
			continue
		}
		rest += n
		other[verb+" "+resource] += n
	}
	w.figure(what+": requests for Leases and Nodes, per node", "", each/float64(w.cfg.Nodes), "claims, and renewals until then; a status where the node controller had changed it, a label where there was none")
	w.promise(what+": all other requests to the API server", "", rest, fixedRequests, most(other))
	w.promise(what+": lists and watches of one kind, most", "", slices.Max(append(slices.Collect(maps.Values(without(lists, "leases.coordination.k8s.io"))), 0)), 3, "each kind has one cache, listed by a watch; Secrets have a second one, for trust")
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

func without(m map[string]float64, key string) map[string]float64 {
	m = maps.Clone(m)
	delete(m, key)
	return m
}
