package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/fleet"
)

// secret changes what every node uses: once each, and then while some edges read nothing.
func secret(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.runEverywhere(ctx); err != nil {
		return err
	}
	core := w.Admin.CoreV1()
	data := random(4 << 10)
	for _, c := range []struct {
		kind   object.ID
		name   string
		change func() (metav1.Object, error)
	}{
		{object.ConfigMaps, "ConfigMap", func() (metav1.Object, error) {
			o, err := core.ConfigMaps(namespace).Get(ctx, everywhere, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			o.Data["data"] = data
			return core.ConfigMaps(namespace).Update(ctx, o, metav1.UpdateOptions{})
		}},
		{object.Secrets, "Secret", func() (metav1.Object, error) {
			o, err := core.Secrets(namespace).Get(ctx, everywhere, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			o.Data["data"] = []byte(data)
			return core.Secrets(namespace).Update(ctx, o, metav1.UpdateOptions{})
		}},
	} {
		if err := w.still(ctx); err != nil {
			return err
		}
		before, err := w.scrape(ctx)
		if err != nil {
			return err
		}
		crossed, err := w.crossed()
		if err != nil {
			return err
		}
		w.say("changing the %s", c.name)
		o, err := c.change()
		if err != nil {
			return fmt.Errorf("change the %s of all nodes: %w", c.name, err)
		}
		changed := time.Now()
		v, err := object.VersionOf(o)
		if err != nil {
			return err
		}
		at, err := w.committed(ctx, fleet.Question{Kind: c.kind, Namespace: namespace, Name: everywhere, Revision: v.RV})
		if err != nil {
			return err
		}
		after, err := w.scrape(ctx)
		if err != nil {
			return err
		}
		now, err := w.crossed()
		if err != nil {
			return err
		}
		times := since(at, changed)
		w.figure(c.name+" changed: median edge", "s", percentile(times, 50), "from the API server's answer to the edge's commit")
		w.figure(c.name+" changed: p99", "s", percentile(times, 99))
		w.target(c.name+" changed: last edge", "s", percentile(times, 100), 5)
		grown, kind := after.since(before), fmt.Sprintf("kind=%q", c.kind)
		if grown.sum("tether_state_encodes_total", kind) == 0 || grown.sum("tether_state_compressions_total", kind) == 0 {
			return fmt.Errorf("the hub counts no encoding or no compression of the %s, expected one of each: nothing can be told from its counters", c.name)
		}
		w.promise(c.name+" changed: times encoded", "", grown.sum("tether_state_encodes_total", kind), 1)
		w.promise(c.name+" changed: times compressed", "", grown.sum("tether_state_compressions_total", kind), 1)
		w.promise(c.name+" changed: writes of the hub to the API server", "", writes(grown), 0, "Leases and Nodes apart, which are written whatever changes")
		w.figure(c.name+" changed: on the wire", "KiB per edge", (now-crossed)/1024/float64(w.cfg.Nodes), "both directions, with what else crossed meanwhile; 4 KiB were changed, which do not compress")
	}
	return unread(ctx, w)
}

// writes counts those of the hub to the API server, but for what belongs to nodes as such.
func writes(s series) (total float64) {
	for key, n := range s {
		verb, resource := label(key, "verb"), label(key, "resource")
		reads := verb == "get" || verb == "list" || verb == "watch"
		if s.is(key, "tether_api_requests_total", nil) && !reads && !strings.HasPrefix(resource, "leases.") && resource != "nodes" && resource != "nodes/status" {
			total += n
		}
	}
	return total
}

// since are the seconds from one moment to others.
func since(at map[string]time.Time, from time.Time) (seconds []float64) {
	for _, t := range at {
		seconds = append(seconds, t.Sub(from).Seconds())
	}
	return seconds
}
