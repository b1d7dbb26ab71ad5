package scenario

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/fleet"
)

// rollout runs a new DaemonSet over all nodes and takes it away again. The stock controller makes the pods and the stock
// scheduler binds them; a plain watch beside CloudCore tells what of the time is theirs.
func rollout(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	const name = "rollout"
	watched, stop := context.WithCancel(ctx)
	defer stop()
	bound := &bindings{at: map[string]time.Time{}}
	unseen, err := w.watchPods(watched, "app="+name, bound.saw)
	if err != nil {
		return err
	}
	before, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	sets := w.Admin.AppsV1().DaemonSets(namespace)
	w.profile(ctx, 20*time.Second)
	applied := time.Now()
	if _, err := sets.Create(ctx, daemonSet(name), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the DaemonSet: %w", err)
	}
	at, err := w.committed(ctx, fleet.Question{Kind: object.Pods, Namespace: namespace, Prefix: name + "-"})
	if err != nil {
		return err
	}
	if err := w.allReady(ctx, name); err != nil {
		return err
	}
	ready := time.Since(applied)
	after, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	if err := unseen(); err != nil {
		return err
	}
	times := since(at, applied)
	w.figure("from apply to the edge's commit: median", "s", percentile(times, 50))
	w.figure("from apply to the edge's commit: p99", "s", percentile(times, 99))
	w.figure("from apply to the edge's commit: last", "s", percentile(times, 100), "the controller makes the pods and the scheduler binds them on the same cores")
	var own []float64
	for node, t := range bound.all() {
		if c, ok := at[node]; ok {
			own = append(own, c.Sub(t).Seconds())
		}
	}
	w.figure("from bound to the edge's commit: median", "s", percentile(own, 50), "below 0 where a plain watch beside CloudCore heard of it later than the edge")
	w.target("from bound to the edge's commit: p99", "s", percentile(own, 99), 5)
	w.figure("from apply to all Ready in the cluster", "s", ready.Seconds())
	w.unloaded("writes of pods' statuses per pod", "", after.since(before).sum("tether_api_requests_total", `verb="patch"`, `resource="pods/status"`, `code="200"`)/float64(w.cfg.Nodes), 1,
		"every pod became Running and Ready in one; a node that is taken for dead meanwhile, since its Lease waits behind all else, has its pods marked, and says again how they are")
	deleted := time.Now()
	if err := sets.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete the DaemonSet: %w", err)
	}
	err = w.until(ctx, "every pod to be gone", func(ctx context.Context) error {
		left, err := w.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name, Limit: 1})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%s is there, perhaps among others", left.Items[0].Name)
		}
		return err
	})
	w.figure("from deleted to all pods gone in the cluster", "s", time.Since(deleted).Seconds())
	return err
}

// bindings are when a watch told of the first pod that was bound to each node.
type bindings struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

func (b *bindings) saw(p *corev1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.at[p.Spec.NodeName]; !known && p.Spec.NodeName != "" {
		b.at[p.Spec.NodeName] = time.Now()
	}
}

func (b *bindings) all() map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[string]time.Time{}
	for node, t := range b.at {
		all[node] = t
	}
	return all
}

// watchPods tells of each pod that a watch tells of, from now on until ctx is done. ended is an error if the watch ended before.
func (w *world) watchPods(ctx context.Context, selector string, saw func(*corev1.Pod)) (ended func() error, err error) {
	pods, opts := w.Admin.CoreV1().Pods(namespace), metav1.ListOptions{LabelSelector: selector}
	now, err := pods.List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	// The API server ends a watch that it cannot send as fast as things change.
	watch, err := watchtools.NewRetryWatcherWithContext(ctx, now.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector = selector
		return pods.Watch(ctx, o)
	}})
	if err != nil {
		return nil, fmt.Errorf("watch the pods: %w", err)
	}
	over, last := make(chan struct{}), runtime.Object(nil)
	go func() {
		defer close(over)
		defer watch.Stop()
		for event := range watch.ResultChan() {
			last = event.Object
			if p, ok := event.Object.(*corev1.Pod); ok {
				saw(p)
			}
		}
	}()
	return func() error {
		select {
		case <-over:
			return fmt.Errorf("the watch of the pods ended early: what came after was not seen; the last it told of was %.200v", last)
		default:
			return nil
		}
	}, nil
}
