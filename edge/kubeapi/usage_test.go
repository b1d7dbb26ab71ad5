package kubeapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

// summary is what a kubelet measured of pod web, of one whose second container was not measured yet, and of one that is
// none of the API's.
const summary = `{"node":{"nodeName":"gateway-7","cpu":{"time":"2030-01-01T00:00:00Z","usageNanoCores":250000000},"memory":{"time":"2030-01-01T00:00:00Z","workingSetBytes":1048576}},
"pods":[{"podRef":{"name":"web","namespace":"shop","uid":"uid-1"},"containers":[{"name":"main","cpu":{"time":"2030-01-01T00:00:00Z","usageNanoCores":1500000},"memory":{"workingSetBytes":2097152}}]},
{"podRef":{"name":"two","namespace":"shop","uid":"uid-two"},"containers":[{"name":"main","cpu":{"time":"2030-01-01T00:00:00Z","usageNanoCores":1},"memory":{"workingSetBytes":1}},{"name":"side"}]},
{"podRef":{"name":"foreign","namespace":"shop","uid":"u"},"containers":[{"name":"c","cpu":{"usageNanoCores":1},"memory":{"workingSetBytes":1}}]}]}`

// TestPeopleLearnWhatIsUsedWithoutMetricsServer: the answers have the shape that `kubectl top` reads.
func TestPeopleLearnWhatIsUsedWithoutMetricsServer(t *testing.T) {
	p := newPeople(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.RequestURI() != "/stats/summary?only_cpu_and_memory=true" {
			http.NotFound(w, req)
			return
		}
		_, _ = io.WriteString(w, summary)
	})
	p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
	p.store.fromCloud(t, object.Pods, p.two("two"))
	p.store.fromCloud(t, object.Nodes, p.node())
	type measured struct {
		Kind     string
		Metadata struct {
			Name, Namespace string
			Labels          map[string]string
		}
		Timestamp, Window string
		Usage             map[string]string
		Containers        []struct {
			Name  string
			Usage map[string]string
		}
		Items []measured
	}
	get := func(path string) (int, measured) {
		t.Helper()
		code, body := p.ask("GET", "/apis/metrics.k8s.io/v1beta1"+path, "")
		var m measured
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatalf("%s: %v: %s", path, err, body)
		}
		return code, m
	}
	for _, path := range []string{"/pods", "/namespaces/shop/pods", "/pods?labelSelector=app%3Dweb", "/pods?fieldSelector=metadata.name%3Dweb", "/pods?fieldSelector=status.phase%3DPending"} {
		code, m := get(path)
		if code != 200 || m.Kind != "PodMetricsList" || len(m.Items) != 1 {
			t.Fatalf("%s: %d %+v, expected pod web alone", path, code, m)
		}
		if w := m.Items[0]; w.Metadata.Name != "web" || w.Metadata.Namespace != "shop" || w.Metadata.Labels["app"] != "web" || w.Timestamp != "2030-01-01T00:00:00Z" || w.Window != "10s" ||
			len(w.Containers) != 1 || w.Containers[0].Name != "main" || w.Containers[0].Usage["cpu"] != "1500u" && w.Containers[0].Usage["cpu"] != "1500000n" || w.Containers[0].Usage["memory"] != "2Mi" {
			t.Errorf("%s: %+v", path, w)
		}
	}
	if code, m := get("/namespaces/shop/pods/web"); code != 200 || m.Kind != "PodMetrics" || m.Metadata.Name != "web" {
		t.Errorf("one pod: %d %+v", code, m)
	}
	if code, m := get("/nodes/" + node); code != 200 || m.Kind != "NodeMetrics" || m.Usage["cpu"] != "250m" && m.Usage["cpu"] != "250000000n" || m.Usage["memory"] != "1Mi" {
		t.Errorf("the node: %d %+v", code, m)
	}
	if code, m := get("/nodes"); code != 200 || len(m.Items) != 1 {
		t.Errorf("all nodes: %d %+v", code, m)
	}
	for _, selector := range []string{"metadata.name!%3Dweb", "status.phase%3DRunning"} {
		if code, m := get("/pods?fieldSelector=" + selector); code != 200 || len(m.Items) != 0 {
			t.Errorf("pods with %s: %d %+v, expected none", selector, code, m)
		}
	}
	for path, want := range map[string]int{
		"/namespaces/shop/pods/two": 404, "/namespaces/shop/pods/none": 404, "/namespaces/other/pods/web": 404, "/colours": 404,
		"/pods?labelSelector=a+in": 400, "/pods?fieldSelector=a": 400, "/pods?fieldSelector=spec.colour%3Dred": 400, "/nodes?fieldSelector=status.phase%3DRunning": 400,
	} {
		if code, m := get(path); code != want {
			t.Errorf("%s: %d %+v, expected %d", path, code, m, want)
		}
	}
	if code, _ := p.ask("DELETE", "/apis/metrics.k8s.io/v1beta1/nodes/"+node, ""); code != 405 {
		t.Errorf("a measurement can be deleted: %d", code)
	}
	if code, body := p.ask("GET", "/apis", ""); code != 200 || !strings.Contains(body, "metrics.k8s.io/v1beta1") {
		t.Errorf("discovery: %d %s", code, body)
	}
}
