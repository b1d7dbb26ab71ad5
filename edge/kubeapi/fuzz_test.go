package kubeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/tether-edge/tether/common/object"
)

// FuzzReply lets the cloud answer with anything to every request that is passed on: the client gets an answer that HTTP
// has, a refusal stays one, and nothing panics.
func FuzzReply(f *testing.F) {
	token, err := json.Marshal(&authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "a.eyJleHAiOjFlMzA4fQ.b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(201, "application/json", append([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest",`), token[1:]...))
	f.Add(201, "application/vnd.kubernetes.protobuf", []byte("k8s\x00\x0a\x00"))
	f.Add(200, "application/json", []byte(`{"apiVersion":"v1","kind":"Status","status":"Success"}`))
	f.Add(403, "application/json", []byte(`{"apiVersion":"v1","kind":"Status","status":"Success","code":200}`))
	f.Add(409, "application/json", []byte(`{"apiVersion":"v1","kind":"Status","status":"Failure","code":-7,"details":{"retryAfterSeconds":-1}}`))
	f.Add(201, "application/json", []byte(`{"apiVersion":"v1","kind":"Status","status":"Failure","code":-7}`))
	f.Add(201, "application/json", []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"gateway-7","managedFields":[{}]},"status":{"capacity":null}}`))
	f.Add(201, "application/json", []byte(`{"apiVersion":"v1","kind":"List","items":[{}]}`))
	f.Add(99, "a\r\nSet-Cookie: b", []byte(nil))
	f.Add(101, "", []byte(nil))
	f.Add(304, "", []byte("x"))
	f.Add(-1, "", []byte(nil))
	f.Add(1000, "", []byte(nil))
	requests := []struct {
		method, path, contentType, body string
		made                            bool // the answer is an object, so that a refusal must be seen as one
	}{
		{"POST", "/api/v1/namespaces/shop/serviceaccounts/default/token", "application/json", `{"spec":{"boundObjectRef":{"kind":"Pod","name":"web","uid":"uid-1"}}}`, true},
		{"POST", "/api/v1/nodes", "application/json", `{"metadata":{"name":"gateway-7"}}`, true},
		{"POST", "/api/v1/namespaces/shop/pods", "application/json", `{"metadata":{"name":"static","annotations":{"kubernetes.io/config.mirror":"h"}},"spec":{"nodeName":"gateway-7","containers":[{"name":"c","image":"i"}]}}`, true},
		{"PATCH", "/api/v1/namespaces/shop/persistentvolumeclaims/a/status", "application/merge-patch+json", `{}`, false},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", "application/json", `{}`, false},
	}
	f.Fuzz(func(t *testing.T, code int, contentType string, body []byte) {
		e := newEnv(t)
		e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
		e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
			return object.Reply{Code: code, ContentType: contentType, Body: body}, nil
		})
		for _, r := range requests {
			got, said := e.raw(r.method, r.path, r.contentType, r.body)
			if len(e.cloud.called()) == 0 {
				t.Fatalf("%s %s is not passed on: %d %s", r.method, r.path, got, said)
			}
			if got < 200 || got > 599 {
				t.Errorf("%s %s: answered %d, expected a code that ends an answer", r.method, r.path, got)
			}
			if r.made && code/100 != 2 && got/100 == 2 {
				t.Errorf("%s %s: the cloud's %d became %d %s", r.method, r.path, code, got, said)
			}
			if code == http.StatusForbidden && !r.made && got != code {
				t.Errorf("%s %s: the cloud's %d became %d", r.method, r.path, code, got)
			}
			if n := e.panics(); n > 0 {
				t.Fatalf("%s %s panicked", r.method, r.path)
			}
		}
	})
}

// panics is how many requests panicked.
func (e *env) panics() float64 {
	e.t.Helper()
	found, err := e.reg.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, m := range found {
		if m.GetName() == "tether_edge_api_panics_total" {
			return m.Metric[0].Counter.GetValue()
		}
	}
	e.t.Fatal("no metric of panics")
	return 0
}
