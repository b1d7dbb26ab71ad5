package kubeapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// people is the API as a person at the gateway has it.
type people struct {
	*env
	client *http.Client
	base   string
	config *tls.Config
}

// newPeople serves an API whose kubelet is the handler; nil is one that is away.
func newPeople(t *testing.T, kubelet http.HandlerFunc) *people {
	t.Helper()
	var transport http.RoundTripper
	e := newEnv(t, func(c *Config, d *Deps) {
		c.AdminGroup = "tether:operators"
		d.Kubelet = roundTripper(func(req *http.Request) (*http.Response, error) {
			if transport == nil {
				return nil, errors.New("connection refused")
			}
			return transport.RoundTrip(req)
		})
	})
	if kubelet != nil {
		server := httptest.NewTLSServer(kubelet)
		t.Cleanup(server.Close)
		own := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
		}}
		t.Cleanup(own.CloseIdleConnections)
		transport = own
	}
	ca := newAuthority(t, e.clock.Now())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- e.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{ca.issue("edge")}, ClientCAs: ca.pool()})
	}()
	p := &people{env: e, base: "https://" + l.Addr().String(),
		config: &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue("op", "tether:operators")}}}
	p.client = &http.Client{Transport: &http.Transport{TLSClientConfig: p.config, DisableKeepAlives: true}, Timeout: patient}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return p
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (p *people) ask(method, path, body string, header ...string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.base+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// two has the containers main and side, and the init container first.
func (e *env) two(name string) *corev1.Pod {
	pod := e.pod(name, "uid-"+name)
	pod.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "demo:1"}}
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "side", Image: "demo:1"})
	return pod
}

// TestPeopleReachTheKubeletAsThroughAnAPIServer: the paths and options are those that kube-apiserver makes of a request,
// and so are its words.
func TestPeopleReachTheKubeletAsThroughAnAPIServer(t *testing.T) {
	p := newPeople(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, req.Method+" "+req.URL.RequestURI())
	})
	p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
	p.store.fromCloud(t, object.Pods, p.two("two"))
	p.store.fromCloud(t, object.Nodes, p.node())
	const ns = "/api/v1/namespaces/shop/pods/"
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "SPDY/3.1"}
	for _, c := range []struct {
		method, path string
		header       []string
		code         int
		want         string
	}{
		{"GET", ns + "web/log", nil, 200, "GET /containerLogs/shop/web/main"},
		{"GET", ns + "two/log?container=first&previous=true&tailLines=5&limitBytes=7&sinceSeconds=9&timestamps=true&pretty=1&insecureSkipTLSVerifyBackend=true", nil, 200,
			"GET /containerLogs/shop/two/first?limitBytes=7&previous=true&sinceSeconds=9&tailLines=5&timestamps=true"},
		{"GET", ns + "web/log?pad=" + strings.Repeat("%22", 128<<10), nil, 200, "GET /containerLogs/shop/web/main"},
		{"GET", ns + "two/log?container=none", nil, 400, "container none is not valid for pod two"},
		{"GET", ns + "two/log", nil, 400, "a container name must be specified for pod two, choose one of: [first main side]"},
		{"GET", ns + "none/log", nil, 404, `pods \"none\" not found`},
		{"POST", ns + "web/log", nil, 405, "MethodNotAllowed"},
		{"POST", ns + "two/exec?container=side&command=cat&command=a+b&stdin=true&stdout=1&stderr=false&tty=0", upgrade, 200,
			"POST /exec/shop/two/side?command=cat&command=a+b&input=1&output=1"},
		{"GET", ns + "web/attach?stdout=true&tty=true", upgrade, 200, "GET /attach/shop/web/main?output=1&tty=1"},
		{"POST", ns + "web/portforward?ports=80&ports=443", upgrade, 200, "POST /portForward/shop/web?port=80%2C443"},
		{"POST", ns + "web/exec?command=x", nil, 400, "Upgrade request required"},
		{"DELETE", ns + "web/exec", upgrade, 405, "MethodNotAllowed"},
		{"GET", "/api/v1/nodes/" + node + "/proxy/logs/a%2Fb/?x=y", nil, 200, "GET /logs/a%2Fb/?x=y"},
		{"GET", "/api/v1/nodes/" + node + "/proxy", nil, 200, "GET /"},
		{"POST", "/api/v1/nodes/" + node + "/proxy/run", nil, 200, "POST /run"},
		{"GET", "/api/v1/nodes/elsewhere/proxy/pods", nil, 404, `nodes \"elsewhere\" not found`},
	} {
		if code, body := p.ask(c.method, c.path, "", c.header...); code != c.code || !strings.Contains(body, c.want) || c.code == 200 && body != c.want {
			t.Errorf("%s %s: %d %s, expected %d and %s", c.method, c.path, code, body, c.code, c.want)
		}
	}
	// The kubelet itself has no way through here: it would ask itself.
	if code, body := p.raw("GET", ns+"web/log", "", ""); code != 404 {
		t.Errorf("in memory a log is answered %d %s, expected 404", code, body)
	}
	_, body := p.ask("GET", "/api/v1", "")
	var list metav1.APIResourceList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, r := range list.APIResources {
		found[r.Name] = true
	}
	for _, name := range []string{"pods", "pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/eviction", "nodes/proxy"} {
		if !found[name] {
			t.Errorf("discovery names no %s: %v", name, found)
		}
	}
}

// TestAConnectionToAContainerIsPassedOn: after the upgrade bytes go both ways, and the end of one side is the other's.
func TestAConnectionToAContainerIsPassedOn(t *testing.T) {
	p := newPeople(t, func(w http.ResponseWriter, req *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+req.Header.Get("Upgrade")+"\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(conn, "heard "+line)
	})
	p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.base, "https://"), p.config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /api/v1/namespaces/shop/pods/web/exec?command=sh&stdin=1 HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Fatalf("%+v, %v", resp, err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "heard hello\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	// It counts as a request once it is over, and not as one that took so long to answer.
	counted := func() (requests, durations int) {
		found, err := p.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range found {
			switch m.GetName() {
			case "tether_edge_api_requests_total":
				requests = len(m.Metric)
			case "tether_edge_api_request_duration_seconds":
				durations = len(m.Metric)
			}
		}
		return requests, durations
	}
	deadline := time.Now().Add(patient)
	for requests, durations := counted(); requests != 1 || durations != 0; requests, durations = counted() {
		if durations != 0 || time.Now().After(deadline) {
			t.Fatalf("%d requests and %d durations are counted, expected 1 and 0", requests, durations)
		}
		<-time.After(time.Millisecond)
	}
}

func TestWhatTheKubeletSaysOfALogIsAStatus(t *testing.T) {
	for code, want := range map[int]metav1.Status{
		400: {Reason: metav1.StatusReasonBadRequest, Message: "previous terminated container \"main\" in pod \"web\" not found"},
		404: {Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource ( pods/log web)"},
		500: {Reason: metav1.StatusReasonInternalError, Message: "Internal error occurred: previous terminated container \"main\" in pod \"web\" not found"},
	} {
		p := newPeople(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, `previous terminated container "main" in pod "web" not found`)
		})
		p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
		got, body := p.ask("GET", "/api/v1/namespaces/shop/pods/web/log", "")
		var s metav1.Status
		if err := json.Unmarshal([]byte(body), &s); err != nil || got != code || s.Reason != want.Reason || s.Message != want.Message {
			t.Errorf("%d: answered %d %s, %v; expected %s %q", code, got, body, err, want.Reason, want.Message)
		}
	}
}

func TestAKubeletThatIsAwayIsSaid(t *testing.T) {
	p := newPeople(t, nil)
	p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
	for _, path := range []string{"/api/v1/namespaces/shop/pods/web/log", "/api/v1/nodes/" + node + "/proxy/pods", "/apis/metrics.k8s.io/v1beta1/pods"} {
		if code, body := p.ask("GET", path, ""); code != 503 || !strings.Contains(body, "the kubelet of this node does") || !strings.Contains(body, "connection refused") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// TestWritesThatWouldBeLostAreRefusedWithTheReason: a person hears at once what would become of the change; the kubelet
// may make it.
func TestWritesThatWouldBeLostAreRefusedWithTheReason(t *testing.T) {
	p := newPeople(t, nil)
	p.store.fromCloud(t, object.Pods, p.pod("web", "uid-1"))
	p.store.fromCloud(t, object.Nodes, p.node())
	p.store.fromCloud(t, object.ConfigMaps, p.configMap("settings", "v"))
	const ns, merge = "/api/v1/namespaces/shop", "application/merge-patch+json"
	for _, c := range []struct{ method, path, contentType, body, why string }{
		{"POST", ns + "/pods", "application/json", `{"metadata":{"name":"x"}}`, "static pod"},
		{"PATCH", ns + "/pods/web", merge, `{"metadata":{"labels":{"a":"b"}}}`, "make it in the cluster"},
		{"PATCH", ns + "/pods/web/status", merge, `{"status":{"phase":"Failed"}}`, "the kubelet reports it"},
		{"PATCH", ns + "/pods/web/ephemeralcontainers", merge, `{}`, "make it in the cluster"},
		{"POST", ns + "/pods/web/binding", "application/json", `{}`, "make it in the cluster"},
		{"DELETE", ns + "/pods/web", "application/json", `{}`, "grace period 0"},
		{"PATCH", ns + "/configmaps/settings", merge, `{"data":{"k":"w"}}`, "make it in the cluster"},
		{"POST", ns + "/secrets", "application/json", `{"metadata":{"name":"x"}}`, "make it in the cluster"},
		{"DELETE", ns + "/configmaps", "application/json", ``, "make it in the cluster"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"spec":{"podCIDR":"10.0.0.0/24"}}`, "the cloud owns the spec of a Node"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"metadata":{"annotations":{"tether.io/kubelet-port":"20055","tether.io/addresses":"x","mine":"y"}}}`, "own these labels and annotations: tether.io/addresses, tether.io/kubelet-port"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"metadata":{"annotations":{"tether.io/autonomy-until":"never"}}}`, "own these labels and annotations: tether.io/autonomy-until"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"metadata":{"labels":{"tether.io/a":"b"}}}`, "own these labels and annotations: tether.io/a"},
		{"PATCH", "/api/v1/nodes/" + node + "/status", merge, `{}`, "the kubelet reports it"},
		{"POST", "/api/v1/nodes", "application/json", `{"metadata":{"name":"x"}}`, "registers its own node"},
		{"DELETE", "/api/v1/nodes/" + node, "application/json", `{}`, "make it in the cluster"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"metadata":{"finalizers":["example.com/kept"]}}`, "ownerReferences and finalizers"},
		{"PATCH", "/api/v1/nodes/" + node, merge, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"c","uid":"u"}]}}`, "ownerReferences and finalizers"},
		{"POST", ns + "/events", "application/json", `{"metadata":{"name":"x"},"involvedObject":{"namespace":"shop"}}`, "of source.host \\\"" + node},
		{"POST", ns + "/events", "application/json", `{"metadata":{"name":"x"},"involvedObject":{"namespace":"shop"},"source":{"host":"another"}}`, "found \\\"another"},
		{"POST", ns + "/events", "application/json", `{"metadata":{"name":"x"},"involvedObject":{"namespace":"shop"},"source":{"host":"` + node + `"},"reportingInstance":"another"}`, "found"},
		{"POST", ns + "/events", "application/json", `{"metadata":{"name":"x"},"involvedObject":{"namespace":"mall"},"source":{"host":"` + node + `"}}`, "belongs into namespace \\\"mall"},
		{"POST", "/apis/coordination.k8s.io/v1/namespaces/shop/leases", "application/json", `{"metadata":{"name":"x"}}`, "would be lost"},
		{"POST", "/api/v1/namespaces", "application/json", `{"metadata":{"name":"x"}}`, "not served at a gateway"},
		{"POST", "/apis/apps/v1/namespaces/shop/deployments", "application/json", `{"metadata":{"name":"x"}}`, "not served at a gateway"},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json", `{}`, "reviews are made in the cluster"},
		{"POST", "/apis/storage.k8s.io/v1/csinodes", "application/json", `{"metadata":{"name":"x"}}`, "would be lost"},
	} {
		code, body := p.ask(c.method, c.path, c.body, "Content-Type", c.contentType)
		if code != 403 || !strings.Contains(body, c.why) {
			t.Errorf("%s %s: %d %s, expected a refusal with %q", c.method, c.path, code, body, c.why)
		}
	}
	if sent := p.store.sent(); len(sent) != 0 {
		t.Errorf("what was refused is sent nevertheless: %+v", sent)
	}
	// What reaches the cloud is taken: it waits in the outbox if it must.
	if code, body := p.ask("PATCH", "/api/v1/nodes/"+node, `{"metadata":{"labels":{"site":"south"}}}`, "Content-Type", merge); code != 200 || len(p.store.sent()) != 1 {
		t.Errorf("a label for the node: %d %s, %d writes wait", code, body, len(p.store.sent()))
	}
}
