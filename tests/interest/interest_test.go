package interest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	nodeauthorizer "k8s.io/kubernetes/plugin/pkg/auth/authorizer/node"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

const (
	clusters = 5
	steps    = 2000 // in each cluster
	every    = 4    // steps between two comparisons
	deadline = 10 * time.Second
)

// TestNodeSeesWhatTheNodeAuthorizerAllows takes TETHER_SEED to repeat one cluster.
func TestNodeSeesWhatTheNodeAuthorizerAllows(t *testing.T) {
	seeds := make([]uint64, clusters)
	for i := range seeds {
		seeds[i] = rand.Uint64()
	}
	if s := os.Getenv("TETHER_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TETHER_SEED %q: %v", s, err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, seed) })
	}
}

// A trial is one generated cluster, the cache that follows it, the authorizer that is told the same, and per node a
// subscriber that knows only what it was told.
type trial struct {
	t       *testing.T
	gen     generator
	cluster *statetest.Cluster
	cache   *state.Cache
	graph   *nodeauthorizer.Graph
	auth    authorizer.Authorizer
	edges   []*edge
}

// An edge keeps a picture by looking only at the keys that it is notified of.
type edge struct {
	view *state.View
	mu   sync.Mutex
	has  map[object.Key]object.Version
}

func (e *edge) notify(keys []object.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range keys {
		if item, ok := e.view.Get(k); ok {
			e.has[k] = item.Version
		} else {
			delete(e.has, k)
		}
	}
}

func newTrial(t *testing.T, seed uint64) *trial {
	comp, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	graph := nodeauthorizer.NewGraph()
	tr := &trial{
		t: t, gen: generator{rand.New(rand.NewPCG(seed, 0))}, cluster: statetest.New(), graph: graph,
		auth: nodeauthorizer.NewAuthorizer(graph, nodeidentifier.NewDefaultNodeIdentifier(), bootstrappolicy.NodeRules()),
	}
	for range 100 { // what a first list brings
		tr.step()
	}
	tr.cache = state.New(state.Config{}, state.Deps{
		Source: tr.cluster, Compressor: comp, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tr.cache.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wctx, wcancel := context.WithTimeout(ctx, deadline)
	defer wcancel()
	if err := tr.cache.WaitSynced(wctx); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		tr.subscribe(fmt.Sprintf("node%d", i))
	}
	return tr
}

func (tr *trial) subscribe(node string) {
	e := &edge{has: map[object.Key]object.Version{}}
	e.mu.Lock()
	defer e.mu.Unlock()
	view, cancel := tr.cache.Subscribe(node, e.notify)
	tr.t.Cleanup(cancel)
	e.view = view
	for _, k := range view.Kinds() {
		view.List(k, func(key object.Key, v object.Version) { e.has[key] = v })
	}
	tr.edges = append(tr.edges, e)
}

func run(t *testing.T, seed uint64) {
	tr := newTrial(t, seed)
	for i := range steps {
		what := tr.step()
		if tr.gen.one(300) {
			kinds := tr.cache.Kinds()
			tr.cluster.Break(kinds[tr.gen.IntN(len(kinds))], tr.gen.one(2))
		}
		if i%every == 0 {
			tr.compare(fmt.Sprintf("seed %d, step %d (%s)", seed, i, what))
		}
		if t.Failed() {
			t.Fatalf("TETHER_SEED=%d repeats this", seed)
		}
	}
}

// step changes one thing, in the cluster and in the authorizer's graph.
func (tr *trial) step() string {
	pods := tr.cluster.Objects(object.Pods)
	switch tr.gen.IntN(8) {
	case 0, 1:
		return tr.remove()
	case 2, 3:
		if len(pods) > 0 {
			return tr.put(tr.gen.update(tr.pick(pods).(*corev1.Pod)))
		}
	case 4, 5:
		p := tr.gen.pod()
		k := object.KeyOf(object.Pods, p)
		tr.forget(k)
		return tr.put(p)
	}
	return tr.put(tr.gen.object())
}

// pick chooses by the seed and not by the order of a map.
func (tr *trial) pick(list []object.Object) object.Object {
	least := list[0]
	pivot := fmt.Sprintf("%02d", tr.gen.IntN(100))
	rank := func(o object.Object) string {
		return fmt.Sprintf("%016x", hash(pivot+o.GetNamespace()+"/"+o.GetName()))
	}
	for _, o := range list[1:] {
		if rank(o) < rank(least) {
			least = o
		}
	}
	return least
}

func (tr *trial) remove() string {
	kinds := object.Synced()
	k := kinds[tr.gen.IntN(len(kinds))]
	list := tr.cluster.Objects(k.ID())
	if len(list) == 0 {
		return "nothing to delete"
	}
	key := object.KeyOf(k.ID(), tr.pick(list))
	tr.forget(key)
	return "delete " + key.String()
}

func (tr *trial) forget(key object.Key) {
	tr.cluster.Delete(key)
	switch key.Kind {
	case object.Pods:
		tr.graph.DeletePod(key.Name, key.Namespace)
	case object.PersistentVolumes:
		tr.graph.DeletePV(key.Name)
	case object.VolumeAttachments:
		tr.graph.DeleteVolumeAttachment(key.Name)
	}
}

func (tr *trial) put(o object.Object) string {
	key, _ := tr.cluster.Put(o)
	switch v := o.(type) {
	case *corev1.Pod:
		if v.Spec.NodeName != "" {
			tr.graph.AddPod(v)
		}
	case *corev1.PersistentVolume:
		tr.graph.AddPV(v)
	case *storagev1.VolumeAttachment:
		tr.graph.AddVolumeAttachment(v.Name, v.Spec.NodeName)
	}
	return "put " + key.String()
}

// compare waits until the cache stands where the cluster does, and compares for every node.
func (tr *trial) compare(when string) {
	for _, k := range tr.cache.Kinds() {
		rv := tr.cluster.Bookmark(k)
		tr.until(when+": caught up with "+string(k), func() bool { return tr.edges[0].view.Revision(k) >= rv })
	}
	for _, e := range tr.edges {
		tr.compareEdge(when, e)
	}
}

func (tr *trial) compareEdge(when string, e *edge) {
	exist := map[object.Key]object.Version{}
	for _, k := range tr.cache.Kinds() {
		for _, o := range tr.cluster.Objects(k) {
			key := object.KeyOf(k, o)
			exist[key], _ = object.VersionOf(o)
			if k == object.Pods {
				tr.until(when+": nothing is pending", func() bool { return !e.view.Pending(key) })
			}
		}
	}
	listed := map[object.Key]object.Version{}
	for _, k := range tr.cache.Kinds() {
		e.view.List(k, func(key object.Key, v object.Version) { listed[key] = v })
	}
	for key, v := range listed {
		if !tr.allowed(e.view.Node(), key) {
			tr.t.Errorf("%s: %s sees %s, which the authorizer refuses", when, e.view.Node(), key)
		}
		if v != exist[key] {
			tr.t.Errorf("%s: %s sees %s at %v, it is at %v", when, e.view.Node(), key, v, exist[key])
		}
	}
	for key := range exist {
		_, seen := listed[key]
		_, got := e.view.Get(key)
		if seen != got {
			tr.t.Errorf("%s: %s on %s: listed %v, Get %v", when, key, e.view.Node(), seen, got)
		}
		if !seen && key.Kind != object.Services && tr.allowed(e.view.Node(), key) {
			tr.t.Errorf("%s: %s does not see %s, which the authorizer allows", when, e.view.Node(), key)
		}
		if got := e.view.Cause(key, "", ""); seen != (got == 0) {
			tr.t.Errorf("%s: %s on %s: listed %v, cause %v", when, key, e.view.Node(), seen, got)
		}
	}
	tr.until(when+": the edge was told of all that changed", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return same(e.has, listed)
	})
}

func same(a, b map[object.Key]object.Version) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// allowed asks the authorizer whether the kubelet may read that one object.
func (tr *trial) allowed(node string, key object.Key) bool {
	kind, _ := object.Lookup(key.Kind)
	decision, _, err := tr.auth.Authorize(context.Background(), authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{user.NodesGroup, user.AllAuthenticated}},
		Verb: "get", Namespace: key.Namespace, APIGroup: kind.Group, APIVersion: kind.Version, Resource: kind.Resource,
		Name: key.Name, ResourceRequest: true,
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	return decision == authorizer.DecisionAllow
}

// until waits for a condition of other goroutines.
func (tr *trial) until(what string, cond func() bool) {
	tr.t.Helper()
	for end := time.Now().Add(deadline); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			tr.t.Fatalf("after %v still not: %s", deadline, what)
		}
	}
}
