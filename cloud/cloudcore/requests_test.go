package cloudcore

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestEveryRequestToTheAPIServerIsCounted also where a part has made itself a client of a copy of the configuration.
func TestEveryRequestToTheAPIServerIsCounted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	reg := prometheus.NewRegistry()
	cfg := &rest.Config{Host: server.URL}
	countRequests(cfg, reg)
	node := rest.CopyConfig(cfg)
	node.Impersonate.UserName = "system:node:a"
	client, err := kubernetes.NewForConfig(node)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, _ = client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}) // what is asked is what counts here, not the answers
	_, _ = client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	_, _ = client.CoreV1().Pods("a").Get(ctx, "p", metav1.GetOptions{})
	for range 2 {
		_, _ = client.CoreV1().Pods("a").Patch(ctx, "p", types.MergePatchType, []byte("{}"), metav1.PatchOptions{}, "status")
	}
	_, _ = client.CoordinationV1().Leases("a").Create(ctx, &coordinationv1.Lease{}, metav1.CreateOptions{})
	_, _ = client.Discovery().ServerVersion()
	server.Close()
	_ = client.CoreV1().Pods("a").Delete(ctx, "p", metav1.DeleteOptions{})
	found := map[string]float64{}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("expected one metric, found %d, %v", len(families), err)
	}
	for _, m := range families[0].Metric {
		labels := map[string]string{}
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		found[labels["verb"]+" "+labels["resource"]+" "+labels["code"]] = m.Counter.GetValue()
	}
	for what, want := range map[string]float64{"list nodes 404": 1, "watch nodes 404": 1, "get pods 404": 1, "patch pods/status 200": 2, "create leases.coordination.k8s.io 200": 1, "get none 404": 1, "delete pods none": 1} {
		if found[what] != want {
			t.Errorf("%s: expected %v, found %v", what, want, found[what])
		}
	}
}
