package scenario

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/fleet"
)

// What a session may hold that its edge does not read, in bytes: what TLS and the WebSocket have in hand, and the stack of who
// writes. The object that is written is in the hub once, for all edges.
const unreadMost = 64 << 10

// unread changes a large ConfigMap that every node uses, again and again, while a tenth of the edges read nothing: each of these
// is in the middle of another version, and the others get every one.
func unread(ctx context.Context, w *world) error {
	const versions = 3
	size, stalled := 256<<10, max(1, w.cfg.Nodes/10)
	if w.cfg.Small {
		size, stalled = 900<<10, w.cfg.Nodes/2
	}
	// An edge gives up three pings and a second after the last answer, which may be a ping old when the stall begins.
	lasts := 2*w.cfg.PingInterval - time.Second
	if err := w.settled(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.rest(ctx, w.pick(30*time.Second, time.Second)); err != nil {
		return err
	}
	if err := forgetPeak(w.Cloud.PID()); err != nil {
		return err
	}
	steady, err := w.memory(ctx)
	if err != nil {
		return err
	}
	kernel, err := readSockets()
	if err != nil {
		return err
	}
	before, err := w.status(ctx)
	if err != nil {
		return err
	}
	w.say("%d edges read nothing for %s", stalled, lasts)
	began := time.Now()
	slow := map[string]bool{}
	for i, p := range w.fleets {
		share := (stalled - len(slow)) / (len(w.fleets) - i)
		names, err := p.Stall(ctx, share, lasts)
		if err != nil {
			return err
		}
		for _, name := range names {
			slow[name] = true
		}
	}
	var last fleet.Question
	var took []float64
	w.profile(ctx, 10*time.Second)
	for range versions {
		core := w.Admin.CoreV1().ConfigMaps(namespace)
		o, err := core.Get(ctx, everywhere, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("change the large ConfigMap: %w", err)
		}
		o.Data["data"] = random(size)
		changed := time.Now()
		if o, err = core.Update(ctx, o, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("change the large ConfigMap: %w", err)
		}
		v, err := object.VersionOf(o)
		if err != nil {
			return err
		}
		last = fleet.Question{Kind: object.ConfigMaps, Namespace: namespace, Name: everywhere, Revision: v.RV}
		if err := w.committedBut(ctx, slow, last); err != nil {
			return err
		}
		took = append(took, time.Since(changed).Seconds())
	}
	m, err := w.memory(ctx)
	if err != nil {
		return err
	}
	held, err := readSockets()
	if err != nil {
		return err
	}
	spent := time.Since(began)
	inTime := spent < lasts
	if _, err := w.committed(ctx, last); err != nil {
		return err
	}
	after, err := w.status(ctx)
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%d KiB that do not compress, %d times; the slowest of them", size>>10, versions)
	w.figure("a large ConfigMap changed: last edge of those that read", "s", percentile(took, 100), note)
	w.figure("wire of it in all", "MiB/s", float64(size)*float64(w.cfg.Nodes-len(slow))/(1<<20)/percentile(took, 50))
	const object, garbage = 3, 4 // the object on its way in and out, encoded and not; what the collector has not seen yet
	limit := float64(len(slow)*unreadMost+versions*object*garbage*size) / (1 << 20)
	w.target("time for all versions, while edges read nothing", "s", spent.Seconds(), lasts.Seconds(), "beyond it nothing is told of what these cost")
	if inTime {
		w.promise("memory that the edges cost that read nothing", "MiB", (m.peak-steady.resident)/(1<<20), limit,
			fmt.Sprintf("%d edges: peak %.0f MiB, before %.0f; a copy for each would be %d MiB", len(slow), m.peak/(1<<20), steady.resident/(1<<20), len(slow)*size>>20))
		w.figure("kernel's buffers for them", "KiB per edge", (held.buffers-kernel.buffers)/1024/float64(len(slow)), "both ends")
	}
	w.unloaded("sessions lost of edges that read nothing or little", "", float64(after.Lost-before.Lost), w.silent())
	return nil
}

// committedBut waits until every edge but some has committed what the question is for.
func (w *world) committedBut(ctx context.Context, some map[string]bool, q fleet.Question) error {
	return w.until(ctx, "every edge that reads to commit "+q.Name, func(ctx context.Context) error {
		there := 0
		for _, p := range w.fleets {
			c, err := p.Commits(ctx, q)
			if err != nil {
				return err
			}
			for node := range c.At {
				if !some[node] {
					there++
				}
			}
		}
		if missing := w.cfg.Nodes - len(some) - there; missing > 0 {
			return fmt.Errorf("%d edges have not", missing)
		}
		return nil
	})
}
