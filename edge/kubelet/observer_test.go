package kubelet

import (
	"errors"
	"net/http"
	"testing"
)

// answer is a transport with one answer.
type answer struct {
	code int
	err  error
}

func (a answer) RoundTrip(*http.Request) (*http.Response, error) {
	if a.err != nil {
		return nil, a.err
	}
	return &http.Response{StatusCode: a.code, Body: http.NoBody}, nil
}

func TestKubeletIsSettledOnceStatusAndCSINodeWereAccepted(t *testing.T) {
	const status, csi = "/api/v1/nodes/n/status", "/apis/storage.k8s.io/v1/csinodes"
	o := newObserver("n")
	send := func(a answer, method, path string) {
		t.Helper()
		r, err := http.NewRequest(method, "http://local"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := o.wrap(a).RoundTrip(r)
		if !errors.Is(err, a.err) || (err == nil && response.StatusCode != a.code) {
			t.Errorf("%s %s: the outcome was changed: %v, %v", method, path, response, err)
		}
	}
	settled := func() bool {
		select {
		case <-o.settled:
			return true
		default:
			return false
		}
	}
	send(answer{code: 503}, "PATCH", status)
	send(answer{err: errors.New("cut")}, "PATCH", status)
	send(answer{code: 200}, "GET", status)
	send(answer{code: 200}, "PATCH", "/api/v1/nodes/other/status")
	send(answer{code: 404}, "GET", csi+"/n")
	send(answer{code: 201}, "POST", csi)
	if settled() {
		t.Fatal("settled before the node's status was accepted")
	}
	send(answer{code: 200}, "PATCH", status)
	if !settled() {
		t.Fatal("not settled after status and CSINode were accepted")
	}
	send(answer{code: 200}, "PATCH", status) // a second time is harmless
}
