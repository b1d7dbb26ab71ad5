package kubeapi

import (
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// damage replaces a stored body by one that does not decode.
func (e *env) damage(rec *object.Record) {
	e.t.Helper()
	broken := *rec
	broken.Body = []byte("k8s\x00 and then nothing that makes sense")
	if _, err := e.store.Apply(e.t.Context(), object.Change{Expect: rec.LocalRV, Record: &broken}); err != nil {
		e.t.Fatal(err)
	}
}

func TestADamagedObjectHidesNoOthersAndADamagedPodStopsNone(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("good", "1"))
	e.damage(e.store.fromCloud(t, object.ConfigMaps, e.configMap("bad", "1")))
	list, err := e.client.CoreV1().ConfigMaps("shop").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "good" {
		t.Errorf("list: %v %v, expected the good ConfigMap alone", list, err)
	}
	if _, err := e.client.CoreV1().ConfigMaps("shop").Get(ctx, "bad", metav1.GetOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("get the damaged one: %v, expected 500", err)
	}
	e.store.fromCloud(t, object.Pods, e.pod("good", "uid-1"))
	e.damage(e.store.fromCloud(t, object.Pods, e.pod("bad", "uid-2")))
	if _, err := e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("list pods: %v, expected 500: a pod that is left out would be stopped", err)
	}
}

func TestMetricsCountByWhatIsServedAndNotByWhatIsAsked(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/api/v1/pods", "/api/v1/pods", "/api/v1/made-up-1", "/apis/made-up-2/v1/x", "/made-up-3"} {
		e.raw(http.MethodGet, path, "", "")
	}
	found, err := e.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f.String(), "made-up") {
			t.Errorf("a client's words are in the metrics: %s", f)
		}
		if f.GetName() != "tether_edge_api_requests_total" {
			continue
		}
		counted := 0.0
		for _, m := range f.Metric {
			if strings.Contains(m.String(), `value:"pods"`) {
				counted += m.Counter.GetValue()
			}
		}
		if counted != 2 {
			t.Errorf("%v lists of pods are counted, expected 2: %s", counted, f)
		}
	}
}
