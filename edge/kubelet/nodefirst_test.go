package kubelet

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/pkg/kubelet/config"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// nodeAPI answers lists of nodes when it may, and nothing else.
type nodeAPI struct {
	asked atomic.Int64
	// answer blocks until the list that is asked for so many times may be answered.
	answer func(ctx context.Context, times int64)
}

func (a *nodeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/nodes" || r.URL.Query().Get("watch") != "" {
		w.WriteHeader(http.StatusBadRequest) // of a watch-list, too: then a reflector lists
		return
	}
	a.answer(r.Context(), a.asked.Add(1))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"gate-7","resourceVersion":"5"}}]}`))
}

func newNodeAPI(t *testing.T) (*nodeAPI, kubernetes.Interface) {
	a := &nodeAPI{answer: func(ctx context.Context, _ int64) { <-ctx.Done() }}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return a, client
}

// until blocks until ok, or ctx ends.
func until(ctx context.Context, ok func() bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// TestPodsAreWatchedAsSoonAsTheNodeIsKnown: the first time that upstream looks whether it knows its Node, it does, though the answer
// comes later than the question.
func TestPodsAreWatchedAsSoonAsTheNodeIsKnown(t *testing.T) {
	api, bare := newNodeAPI(t)
	client := newNodeFirst(t.Context(), bare, "gate-7")
	// As NewMainKubelet does.
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.Set{metav1.ObjectNameField: "gate-7"}.String()
	}))
	informer := factory.Core().V1().Nodes().Informer()
	// The kubelet's answer comes only once somebody else asks, and that one's when the kubelet has taken in its own.
	api.answer = func(ctx context.Context, times int64) {
		if times == 1 {
			until(ctx, func() bool { return api.asked.Load() > 1 })
		} else {
			until(ctx, informer.HasSynced)
		}
	}
	factory.Start(t.Context().Done())
	until(t.Context(), func() bool { return api.asked.Load() == 1 })

	looked, once := make(chan bool, 1), sync.Once{}
	source := config.NewPodConfig(nil, nil).Channel(t.Context(), kubetypes.ApiserverSource)
	config.NewSourceApiserver(klog.Background(), client, "gate-7", func() bool {
		once.Do(func() { looked <- informer.HasSynced() })
		return true
	}, source)
	select {
	case known := <-looked:
		if !known {
			t.Error("upstream looked before it could know its Node: pods wait for a second")
		}
	case <-time.After(deadline):
		t.Fatal("upstream never looked")
	}
}

// TestUpstreamTakesTheClient: where it makes its authentication, it looks at the client by reflection.
func TestUpstreamTakesTheClient(t *testing.T) {
	_, bare := newNodeAPI(t)
	s, err := stockOptions(validConfig(), Host{SysResource: true}, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := app.BuildAuth("gate-7", newNodeFirst(t.Context(), bare, "gate-7"), s.KubeletConfiguration); err != nil {
		t.Error(err)
	}
}

// TestAnAPIWithoutTheNodeHoldsUpNoKubelet: the wait has an end, and comes once.
func TestAnAPIWithoutTheNodeHoldsUpNoKubelet(t *testing.T) {
	api, bare := newNodeAPI(t)
	client := newNodeFirst(t.Context(), bare, "gate-7")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.CoreV1().RESTClient()
	}()
	select {
	case <-done:
	case <-time.After(deadline):
		t.Fatal("a client waits for a Node that does not come")
	}
	if api.asked.Load() == 0 {
		t.Error("nobody asked for the Node: it was not waited for")
	}
	asked := api.asked.Load()
	if _ = client.CoreV1().RESTClient(); api.asked.Load() != asked {
		t.Error("the Node is asked for again")
	}
}
