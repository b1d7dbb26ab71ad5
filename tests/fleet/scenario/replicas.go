package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/fleet"
)

// annotationSession on a node's Lease names the session that holds the node: see cloud/node.
const annotationSession = "tether.io/session"

// replicas takes three CloudCores away one by one, each in another way, while a pod on every node goes on reporting.
func replicas(ctx context.Context, w *world) (err error) {
	if err := w.disconnect(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.oneHub(context.WithoutCancel(ctx))) }()
	for n := range 2 {
		c, err := w.FurtherCloud(ctx, n+1)
		if err != nil {
			return err
		}
		w.hubs = append(w.hubs, &hub{Process: c.Process, webSocket: c.WebSocket, quic: c.QUIC, metrics: "http://" + c.Metrics + "/metrics", ready: c.Ready})
	}
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.runEverywhere(ctx); err != nil {
		return err
	}
	if err := w.spread(ctx, "at first"); err != nil {
		return err
	}
	if err := w.even(ctx, "at first"); err != nil {
		return err
	}
	watched, stop := context.WithCancel(ctx)
	defer stop()
	order := &order{last: map[string]int{}}
	unseen, err := w.watchPods(watched, "app="+everywhere, order.saw)
	if err != nil {
		return err
	}
	reporting, end := context.WithCancel(ctx)
	reports := make(chan error, 1)
	go func() {
		_, err := w.beat(reporting, fleet.BeatPods, w.pick(time.Minute, 2*time.Second), 24*time.Hour)
		reports <- err
	}()
	err = w.takeAway(ctx)
	end()
	if failed := <-reports; err == nil && reporting.Err() == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	if err := w.settled(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.held(ctx); err != nil {
		return err
	}
	stale, err := w.stale(ctx)
	if err != nil {
		return err
	}
	if err := unseen(); err != nil {
		return err
	}
	w.promise("pods whose status in the cluster is not the edge's last", "", float64(stale), 0)
	w.promise("times that the cluster showed an older status after a newer one", "", float64(order.backwards()), 0)
	return nil
}

// oneHub ends all CloudCores but the first one.
func (w *world) oneHub(ctx context.Context) (err error) {
	for _, h := range w.hubs[1:] {
		err = errors.Join(err, h.Signal(syscall.SIGCONT), h.Stop(20*time.Second))
	}
	w.hubs = w.hubs[:1]
	return errors.Join(err, w.disconnect(ctx))
}

// takeAway kills one, stops one and freezes one.
func (w *world) takeAway(ctx context.Context) error {
	back := func(h *hub) error {
		if err := h.Restart(); err != nil {
			return err
		}
		return h.ready(ctx)
	}
	if err := w.without(ctx, w.hubs[2], "killed", w.hubs[2].Kill); err != nil {
		return err
	}
	if err := back(w.hubs[2]); err != nil {
		return err
	}
	if err := w.spread(ctx, "after one was killed and came back"); err != nil {
		return err
	}
	if err := w.even(ctx, "after one was killed and came back"); err != nil {
		return err
	}
	if err := w.without(ctx, w.hubs[1], "stopped by SIGTERM", func() error { return w.hubs[1].Stop(time.Minute) }); err != nil {
		return err
	}
	if err := back(w.hubs[1]); err != nil {
		return err
	}
	if err := w.spread(ctx, "after one was stopped and came back"); err != nil {
		return err
	}
	if err := w.even(ctx, "after one was stopped and came back"); err != nil {
		return err
	}
	frozen := w.hubs[0]
	if err := w.without(ctx, frozen, "frozen", func() error { return frozen.Signal(syscall.SIGSTOP) }); err != nil {
		return err
	}
	// What woke up too late: a hub that takes nodes for its own which others hold by now.
	if err := w.held(ctx); err != nil {
		return err
	}
	w.say("waking the frozen one")
	woken := time.Now()
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	err := w.until(ctx, "no node to be held twice", func(ctx context.Context) error {
		n, err := w.sessions(ctx, w.hubs...)
		if err == nil && n != w.cfg.Nodes {
			err = fmt.Errorf("the hubs have %d sessions of %d nodes", n, w.cfg.Nodes)
		}
		return err
	})
	w.figure("woken: until no node is held twice", "s", time.Since(woken).Seconds())
	return err
}

// without takes a hub away and waits until its edges are at the others.
func (w *world) without(ctx context.Context, h *hub, how string, away func() error) error {
	before, err := w.status(ctx)
	if err != nil {
		return err
	}
	own := before.Servers[h.webSocket] + before.Servers[h.quic]
	moved, err := w.moved(ctx, h)
	if err != nil {
		return err
	}
	w.say("one is %s, with %d edges", how, own)
	start := time.Now()
	if err := away(); err != nil {
		return err
	}
	err = w.until(ctx, "its edges to be synced elsewhere", func(ctx context.Context) error {
		s, err := w.status(ctx)
		if still := s.Servers[h.webSocket] + s.Servers[h.quic]; err == nil && (still > 0 || s.Synced < w.cfg.Nodes) {
			err = fmt.Errorf("%d are connected to it, %d of %d are synced; the last error: %s", still, s.Synced, w.cfg.Nodes, s.LastError)
		}
		return err
	})
	if err != nil {
		return err
	}
	after, err := w.status(ctx)
	if err != nil {
		return err
	}
	w.figure(how+": until its edges are synced elsewhere", "s", time.Since(start).Seconds(), fmt.Sprintf("%d edges, a ping every %s", own, w.cfg.PingInterval))
	since, err := w.moved(ctx, h)
	if err != nil {
		return err
	}
	w.promise(how+": sessions of the others that were lost", "", float64(after.Lost-before.Lost-own)-(since-moved), w.silent(), "those left out that they sent to each other")
	w.figure(how+": attempts to connect per edge", "", float64(after.Dials-before.Dials)/float64(max(own, 1)))
	return nil
}

// spread shows how even the hubs are loaded.
func (w *world) spread(ctx context.Context, when string) error {
	s, err := w.status(ctx)
	if err != nil {
		return err
	}
	most := slices.Max(append(slices.Collect(maps.Values(s.Servers)), 0))
	w.figure("the most loaded one, of an even share, "+when, "", float64(most*len(w.hubs))/float64(w.cfg.Nodes), fmt.Sprint("edges: ", slices.Sorted(maps.Values(s.Servers))))
	return nil
}

// moved is how many edges the hubs but one have sent to others.
func (w *world) moved(ctx context.Context, but *hub) (n float64, err error) {
	for _, h := range w.hubs {
		if h == but {
			continue
		}
		s, err := scrape(ctx, h.metrics)
		if err != nil {
			return 0, err
		}
		n += s.sum("tether_hub_moved_total")
	}
	return n, nil
}

// even waits until no hub has a tenth more than an even share, but for a few: then none sends edges away. A small run does not: of few
// edges the hubs take a minute each time to see that the load is uneven by more than chance.
func (w *world) even(ctx context.Context, when string) error {
	if w.cfg.Small {
		return nil
	}
	start := time.Now()
	err := w.until(ctx, "the hubs to be loaded evenly", func(ctx context.Context) error {
		s, err := w.status(ctx)
		if err != nil {
			return err
		}
		share := float64(w.cfg.Nodes) / float64(len(w.hubs))
		if most := slices.Max(append(slices.Collect(maps.Values(s.Servers)), 0)); float64(most) > max(1.1*share, share+6) || s.Synced < w.cfg.Nodes {
			return fmt.Errorf("they have %v edges, %d are synced", slices.Sorted(maps.Values(s.Servers)), s.Synced)
		}
		return nil
	})
	w.figure("until the load is even, "+when, "s", time.Since(start).Seconds(), "a CloudCore that has a tenth too many sends edges away, a hundredth of them a second")
	return err
}

// sessionsOfEdges are those that the edges have now, by node.
func (w *world) sessionsOfEdges(ctx context.Context) (map[string]string, error) {
	sessions := map[string]string{}
	for _, p := range w.fleets {
		all, err := p.Sessions(ctx)
		if err != nil {
			return nil, err
		}
		maps.Copy(sessions, all)
	}
	return sessions, nil
}

// held waits until the Lease of each node names the session that its edge has.
func (w *world) held(ctx context.Context) error {
	return w.until(ctx, "each Lease to name its edge's session", func(ctx context.Context) error {
		sessions, err := w.sessionsOfEdges(ctx)
		if err != nil {
			return err
		}
		leases, err := w.Admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		wrong := w.cfg.Nodes
		for _, l := range leases.Items {
			if s := sessions[l.Name]; s != "" && l.Annotations[annotationSession] == s {
				wrong--
			}
		}
		if wrong > 0 {
			return fmt.Errorf("%d name another", wrong)
		}
		return nil
	})
}

// stale counts the pods whose status in the cluster is not the one that the edge reported last.
func (w *world) stale(ctx context.Context) (int, error) {
	last := map[string]int{}
	for _, p := range w.fleets {
		counts, err := p.Counts(ctx)
		if err != nil {
			return 0, err
		}
		maps.Copy(last, counts)
	}
	pods, err := w.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + everywhere})
	if err != nil {
		return 0, fmt.Errorf("list the pods: %w", err)
	}
	stale := w.cfg.Nodes
	for i := range pods.Items {
		if p := &pods.Items[i]; fleet.Counted(p) == last[p.Spec.NodeName] {
			stale--
		}
	}
	return stale, nil
}

// order notes where the cluster showed a pod's statuses in another order than the edge wrote them.
type order struct {
	mu    sync.Mutex // guards what follows
	last  map[string]int
	count int
}

func (o *order) saw(p *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, key := fleet.Counted(p), string(p.UID)
	if n < o.last[key] {
		o.count++
	}
	o.last[key] = max(o.last[key], n)
}

func (o *order) backwards() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}
