package state_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// deadline is how long a condition may take to come true.
const deadline = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a cluster and a running cache of it.
type world struct {
	t       testing.TB
	cluster *statetest.Cluster
	cache   *state.Cache
	reg     *prometheus.Registry
}

func start(t testing.TB, cluster *statetest.Cluster, cfg state.Config) *world {
	t.Helper()
	comp, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	c := state.New(cfg, state.Deps{
		Source: cluster, Compressor: comp, Registerer: reg, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Start: %v", err)
		}
	})
	return &world{t: t, cluster: cluster, cache: c, reg: reg}
}

// synced returns a world whose cache is synced.
func synced(t testing.TB, cluster *statetest.Cluster, cfg state.Config) *world {
	t.Helper()
	w := start(t, cluster, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := w.cache.WaitSynced(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	end := time.Now().Add(deadline)
	for !cond() {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", deadline, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// caughtUp waits until the cache has seen all changes of the kinds (none: all kinds).
func (w *world) caughtUp(v *state.View, kinds ...object.ID) {
	w.t.Helper()
	if len(kinds) == 0 {
		kinds = w.cache.Kinds()
	}
	for _, k := range kinds {
		rv := w.cluster.Bookmark(k)
		eventually(w.t, fmt.Sprintf("%s at revision %d", k, rv), func() bool { return v.Revision(k) >= rv })
	}
}

// metric sums the samples of a metric, over the label values that contain the filter.
func (w *world) metric(name, filter string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetValue() + " "
			}
			if strings.Contains(labels, filter) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A recorder is a subscriber that remembers what it was told.
type recorder struct {
	mu   sync.Mutex
	keys map[object.Key]int
}

func (r *recorder) notify(keys []object.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = map[object.Key]int{}
	}
	for _, k := range keys {
		r.keys[k]++
	}
}

func (r *recorder) told(k object.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[k] > 0
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = nil
}

func (r *recorder) all() map[object.Key]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[object.Key]int{}
	for k, n := range r.keys {
		out[k] = n
	}
	return out
}

// subscribe returns a view and its recorder.
func (w *world) subscribe(node string) (*state.View, *recorder) {
	r := &recorder{}
	v, cancel := w.cache.Subscribe(node, r.notify)
	w.t.Cleanup(cancel)
	return v, r
}

func listed(v *state.View) map[object.Key]object.Version {
	out := map[object.Key]object.Version{}
	for _, k := range v.Kinds() {
		v.List(k, func(key object.Key, version object.Version) { out[key] = version })
	}
	return out
}

func has(v *state.View, key object.Key) bool {
	_, ok := v.Get(key)
	return ok
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: meta("", name)} }

func configMap(namespace, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: meta(namespace, name), Data: map[string]string{"value": value}}
}

// pod is bound to a node and mounts ConfigMaps, which are optional.
func pod(namespace, name, node string, configMaps ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta(namespace, name), Spec: corev1.PodSpec{NodeName: node}}
	optional := true
	for _, c := range configMaps {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: c}, Optional: &optional},
		}})
	}
	return p
}

func key(kind object.ID, namespace, name string) object.Key {
	return object.Key{Kind: kind, Namespace: namespace, Name: name}
}
