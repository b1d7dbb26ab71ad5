package kubeapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

func TestAWatchEndsWithItsContextOrItsReader(t *testing.T) {
	e := newEnv(t) // its leak check is half of this test
	get := func(ctx context.Context) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://edge/api/v1/pods?watch=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := e.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("code %d, expected 200", resp.StatusCode)
		}
		return resp
	}
	ctx, cancel := context.WithCancel(t.Context())
	resp := get(ctx)
	cancel()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the context ended: %v, expected context.Canceled", err)
	}
	// With a context that never ends, or the end of the test would end the watch before the leak check.
	resp = get(context.Background())
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	seconds := int64(1)
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &seconds})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case ev, ok := <-w.ResultChan():
		if ok {
			t.Errorf("got %+v, expected the end", ev)
		}
	case <-time.After(patient):
		t.Error("the watch outlives its timeout")
	}
	w.Stop()
}

func TestARequestAfterItsContextEndedIsNotServed(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v, expected context.Canceled", err)
	}
}

func TestAPanicIsA500AndTheNextRequestIsServed(t *testing.T) {
	e := newEnv(t, func(_ *Config, d *Deps) {
		d.View = func(o object.Object) object.Object {
			if o.GetName() == "bad" {
				panic("a defect")
			}
			return o
		}
	})
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("bad", "1"))
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("good", "1"))
	_, err := e.client.CoreV1().ConfigMaps("shop").Get(t.Context(), "bad", metav1.GetOptions{})
	if !apierrors.IsInternalError(err) {
		t.Errorf("get: %v, expected 500", err)
	}
	if _, err := e.client.CoreV1().ConfigMaps("shop").Get(t.Context(), "good", metav1.GetOptions{}); err != nil {
		t.Errorf("get after a panic: %v", err)
	}
	found, err := e.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.GetName() == "tether_edge_api_panics_total" && f.Metric[0].Counter.GetValue() == 1 {
			return
		}
	}
	t.Error("the panic is not counted")
}

func TestRequestsOfTheCloudsPassBothWays(t *testing.T) {
	e := newEnv(t)
	const path = "/api/v1/namespaces/shop/persistentvolumeclaims/data/status?fieldManager=k&timeout=5s"
	code, body := e.raw(http.MethodPatch, path, "application/merge-patch+json", `{"status":{}}`)
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "recorded in the cloud") {
		t.Errorf("offline: %d %s, expected 503 with a reason", code, body)
	}
	e.cloud.set(func(_ context.Context, c object.Call) (object.Reply, error) {
		if c.Verb != "patch" || c.Subresource != "status" || c.ContentType != "application/merge-patch+json" ||
			string(c.Body) != `{"status":{}}` || c.Query != "fieldManager=k" || c.Key != e.key(object.PersistentVolumeClaims, "shop", "data") {
			t.Errorf("call: %+v", c)
		}
		return object.Reply{Code: http.StatusConflict, ContentType: "application/json", Body: []byte(`{"kind":"Status"}`)}, nil
	})
	if code, body = e.raw(http.MethodPatch, path, "application/merge-patch+json", `{"status":{}}`); code != http.StatusConflict || body != `{"kind":"Status"}` {
		t.Errorf("online: %d %s, expected the cloud's answer", code, body)
	}
	e.cloud.set(nil)
	for _, r := range []struct{ method, path string }{
		{http.MethodPost, "/apis/certificates.k8s.io/v1/certificatesigningrequests"},
		{http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews"},
		{http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews"},
		{http.MethodDelete, "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dgateway-7"},
		{http.MethodPatch, "/api/v1/persistentvolumes/pv"},
	} {
		if code, body := e.raw(r.method, r.path, "application/json", "{}"); code != http.StatusServiceUnavailable {
			t.Errorf("%s %s offline: %d %s, expected 503", r.method, r.path, code, body)
		}
	}
}

func TestMethodsAndPathsThatDoNotExist(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "1"))
	for _, r := range []struct {
		method, path string
		code         int
	}{
		{http.MethodGet, "/api/v1/configmaps/a", 404},
		{http.MethodGet, "/api/v1/namespaces/shop/nodes", 404},
		{http.MethodGet, "/api/v1/namespaces/shop/pods/a/status/more", 404},
		{http.MethodGet, "/api/v2/pods", 404},
		{http.MethodGet, "/nothing", 404},
		{http.MethodPut, "/api/v1/namespaces/shop/pods", 405},
		{http.MethodPost, "/api/v1/namespaces/shop/events/x", 405},
		{"OPTIONS", "/api/v1/pods", 405},
		{http.MethodGet, "/healthz", 200},
		{http.MethodGet, "/api/v1/namespaces/shop/configmaps?continue=abc", 410},
		{http.MethodGet, "/api/v1/namespaces/shop/configmaps?limit=1", 200},
		{http.MethodGet, "/api/v1/pods?fieldSelector=spec.colour%3Dred", 400},
		{http.MethodGet, "/api/v1/pods?resourceVersion=abc", 400},
	} {
		if code, body := e.raw(r.method, r.path, "application/json", "{}"); code != r.code {
			t.Errorf("%s %s: %d %s, expected %d", r.method, r.path, code, body, r.code)
		}
	}
}

func TestKubectlsTables(t *testing.T) {
	e := newEnv(t)
	p := e.pod("web", "uid-1")
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "main", RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
	}}
	e.store.fromCloud(t, object.Pods, p)
	n := e.node()
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue})
	e.store.fromCloud(t, object.Nodes, n)
	for path, want := range map[string][]string{
		"/api/v1/pods":                             {`"Ready"`, `"web","0/1","CrashLoopBackOff","3","60m"`},
		"/api/v1/namespaces/shop/pods/web":         {`"web","0/1","CrashLoopBackOff","3","60m"`},
		"/api/v1/nodes":                            {`"Roles"`, `"gateway-7","Ready","\u003cnone\u003e","60m"`},
		"/api/v1/namespaces/shop/serviceaccounts":  {`"Created At"`},
		"/api/v1/namespaces/shop/configmaps":       {`"Data"`},
		"/api/v1/pods?watch=true&timeoutSeconds=1": {`"ADDED"`, `"web","0/1","CrashLoopBackOff"`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://edge"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
		resp, err := e.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range want {
			if !strings.Contains(string(b), s) {
				t.Errorf("%s: the table lacks %s: %s", path, s, b)
			}
		}
	}
}

// FuzzRequests sends what no client would: nothing may panic.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/api/v1/pods?watch=1&fieldSelector=a,b=,!c", "application/json", "")
	f.Add("GET", "/api/v1/namespaces/shop/pods/web", "", "")
	f.Add("PATCH", "/api/v1/namespaces/shop/pods/web/status", "application/strategic-merge-patch+json", `{"status":{"conditions":[{"$patch":"delete"}]}}`)
	f.Add("PATCH", "/api/v1/nodes/gateway-7/status", "application/json-patch+json", `[{"op":"remove","path":"/metadata"}]`)
	f.Add("PATCH", "/api/v1/namespaces/shop/pods/web/status", "application/merge-patch+json", `{"metadata":null,"status":null}`)
	f.Add("PUT", "/apis/storage.k8s.io/v1/csinodes/gateway-7", "application/vnd.kubernetes.protobuf", "k8s\x00\x0a")
	f.Add("POST", "/api/v1/namespaces/shop/events", "application/json", `{"metadata":{"generateName":"x","managedFields":[{}]}}`)
	f.Add("POST", "/api/v1/namespaces/shop/serviceaccounts/default/token", "application/json", `{"spec":{"boundObjectRef":{}}}`)
	f.Add("DELETE", "/api/v1/namespaces/shop/pods/web", "application/json", `{"preconditions":{"uid":null},"gracePeriodSeconds":-1}`)
	f.Add("GET", "/api/v1/watch/namespaces//pods/x/y", "application/yaml", "")
	f.Add("PATCH", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "application/apply-patch+yaml", "a: 1")
	f.Add("GET", "/api/v1/nodes/gateway-7/proxy/..%2f%2f?x=%zz", "", "")
	f.Add("GET", "/api/v1/namespaces/shop/pods/web/log?container=main&tailLines=-1", "", "")
	f.Add("GET", "/api/v1/namespaces/shop/pods/web/exec?stdin=&command=%00", "", "")
	f.Add("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods?labelSelector=a,b=,!c", "", "")
	f.Fuzz(func(t *testing.T, method, path, contentType, body string) {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "http://edge", strings.NewReader(body))
		if err != nil {
			return
		}
		path, query, _ := strings.Cut(path, "?")
		req.URL.Path, req.URL.RawQuery = "/"+strings.TrimPrefix(path, "/"), query
		req.Header.Set("Content-Type", contentType)
		e := newEnv(t, func(_ *Config, d *Deps) {
			d.Kubelet = roundTripper(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"pods":[{}]}`)), Request: req}, nil
			})
		})
		e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
		e.store.fromCloud(t, object.Nodes, e.node())
		e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
		// As the kubelet, and as a person.
		for _, via := range []http.RoundTripper{e.Transport(), &transport{handler: e.local, caller: e.Server.node}} {
			resp, err := via.RoundTrip(req.Clone(ctx))
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		found, err := e.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range found {
			if m.GetName() == "tether_edge_api_panics_total" && m.Metric[0].Counter.GetValue() > 0 {
				t.Errorf("%s %s %q panicked", method, path, body)
			}
		}
	})
}
