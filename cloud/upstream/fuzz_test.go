package upstream

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// FuzzCall makes the calls that a hostile edge may: each gets an answer, and what reaches the API server is one request for
// one object of a kind that a kubelet asks for, in that node's name, with no more of its own than a body and what
// queryKeys allows.
func FuzzCall(f *testing.F) {
	f.Add("get", "secrets", "shop", "a", "", "", "", []byte(nil))
	f.Add("get", "pods", "shop", "a", "", "", "watch=1&fieldManager=x", []byte(nil))
	f.Add("get", "secrets", "shop", "..", "", "", "", []byte(nil))
	f.Add("get", "secrets", "../kube-system", "a?watch=1", "", "", "", []byte(nil))
	f.Add("create", "nodes", "", "n1", "", jsonType, "fieldManager=kubelet&dryRun=All", []byte(`{"metadata":{"name":"n1"},"spec":{"providerID":"aws:///x"}}`))
	f.Add("create", "nodes", "", "", "", protobufType, "", []byte("k8s\x00\x0a\x00"))
	f.Add("create", "nodes", "", "n1", "", jsonType, "", []byte(`{"metadata":{"name":"n2"},"Metadata":{"name":"n1"}}`))
	f.Add("create", "serviceaccounts", "shop", "default", "token", jsonType+"\r\nImpersonate-Group: system:masters", "", []byte(`{}`))
	f.Add("create", "serviceaccounts", "shop", "default", "token", jsonType, "fieldManager=%00&%zz", []byte(`{}`))
	f.Add("create", "pods", "shop", "", "", protobufType, "", []byte{0xff})
	f.Add("create", "pods", "shop", "a", "eviction", jsonType, "dryRun=All", []byte(`{}`))
	f.Add("patch", "nodes", "", "n1", "", mergePatchType, "", []byte(object.Cordon))
	f.Add("patch", "nodes", "", "n1", "", mergePatchType, "", []byte(`{"spec":{"taints":null}}`))
	f.Add("patch", "persistentvolumeclaims", "shop", "a", "status", mergePatchType, "fieldValidation=", []byte(`{}`))
	f.Add("update", "persistentvolumeclaims", "shop", "%2e%2e", "status", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, verb, kind, namespace, name, subresource, contentType, query string, body []byte) {
		a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) {
			return refuse(403, metav1.StatusReasonForbidden, "no"), nil
		})
		c := &wire.Call{Id: 3, Verb: verb, Kind: kind, Namespace: namespace, Name: name, Subresource: subresource, ContentType: contentType, Query: query, Body: body}
		r := a.Call(background(t), "n1", c)
		if r.Id != 3 || r.Code < 400 || r.Code == 500 || r.Code > 599 {
			t.Errorf("%v: got %v, expected a refusal that is not a defect", c, r)
		}
		var status metav1.Status
		if err := json.Unmarshal(r.Body, &status); err != nil || status.Status != metav1.StatusFailure {
			t.Errorf("%v: the body %q is no Status", c, r.Body)
		}
		for _, req := range s.requests() {
			checkRequest(t, req)
		}
		if n := len(s.requests()); n > 1 {
			t.Errorf("%v: %d requests, expected one at most", c, n)
		}
	})
}

// checkRequest checks what a call of n1 may be at most.
func checkRequest(t *testing.T, req *http.Request) {
	t.Helper()
	for _, h := range []string{"Impersonate-Group", "Impersonate-Uid", "Authorization", "Content-Encoding"} {
		if v := req.Header.Values(h); len(v) > 0 {
			t.Errorf("%s %s carries %s: %q", req.Method, req.URL, h, v)
		}
	}
	if who := req.Header.Values("Impersonate-User"); len(who) != 1 || who[0] != "system:node:n1" {
		t.Errorf("%s %s is made as %q, expected system:node:n1", req.Method, req.URL, who)
	}
	for k := range req.URL.Query() {
		if !slices.Contains(queryKeys, k) {
			t.Errorf("%s %s carries the parameter %q, expected %v at most", req.Method, req.URL, k, queryKeys)
		}
	}
	path, ok := strings.CutPrefix(req.URL.EscapedPath(), "/base/")
	parts := strings.Split(path, "/")
	if !ok || slices.Contains(parts, "") || slices.Contains(parts, ".") || slices.Contains(parts, "..") || req.URL.Host != "api.example:6443" {
		t.Fatalf("%s %s: expected a path of names below /base/", req.Method, req.URL)
	}
	// api/v1 or apis/GROUP/v1, then namespaces/NAMESPACE where there is one, then RESOURCE, NAME, SUBRESOURCE.
	group := ""
	if parts[0] == "apis" {
		group, parts = parts[1], parts[1:]
	}
	if parts = parts[2:]; parts[0] == "namespaces" {
		parts = parts[2:]
	}
	id := object.ID(parts[0])
	if group != "" {
		id += object.ID("." + group)
	}
	switch what := req.Method + " " + strings.Join(append([]string{string(id)}, parts[min(2, len(parts)):]...), "/"); {
	case req.Method == http.MethodGet && len(parts) == 2 && slices.Contains(gettable, id):
	case (what == "POST nodes" || what == "POST pods") && len(parts) == 1:
	case what == "PATCH nodes" && len(parts) == 2 && parts[1] == "n1":
		if body, err := io.ReadAll(req.Body); err != nil || string(body) != object.Cordon {
			t.Errorf("%s %s: patches %q, expected %s alone", req.Method, req.URL, body, object.Cordon)
		}
	case len(parts) == 3 && (what == "POST serviceaccounts/token" || what == "POST pods/eviction" || what == "PATCH persistentvolumeclaims/status" || what == "PUT persistentvolumeclaims/status"):
	default:
		t.Errorf("%s %s: no kubelet makes that request", req.Method, req.URL)
	}
}
