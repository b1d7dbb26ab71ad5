package kubelet

import (
	"net/http"
	"strings"
	"sync"
)

// An observer watches the kubelet's requests for the two that only a kubelet past its fatal start makes with success: its
// Node's status (sent once the runtime-dependent modules are up) and its CSINode (6 failed tries end the process). It
// changes no request.
type observer struct {
	node string
	// settled is closed once both were seen.
	settled chan struct{}

	mu           sync.Mutex // guards the fields below
	status, csi  bool
	closedSettle bool
}

func newObserver(node string) *observer { return &observer{node: node, settled: make(chan struct{})} }

// wrap is a transport wrapper for rest.Config.
func (o *observer) wrap(next http.RoundTripper) http.RoundTripper { return &observed{o, next} }

type observed struct {
	o    *observer
	next http.RoundTripper
}

// RoundTrip passes the request on and notes its outcome.
func (t *observed) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err == nil && response.StatusCode < 300 {
		t.o.succeeded(r.Method, r.URL.Path)
	}
	return response, err
}

// WrappedRoundTripper lets client-go reach the transport below, to close idle connections.
func (t *observed) WrappedRoundTripper() http.RoundTripper { return t.next }

func (o *observer) succeeded(method, path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closedSettle:
		return
	case method == http.MethodPatch && path == "/api/v1/nodes/"+o.node+"/status":
		o.status = true
	case method != http.MethodDelete && strings.HasPrefix(path, "/apis/storage.k8s.io/v1/csinodes"):
		o.csi = true
	}
	if o.status && o.csi {
		o.closedSettle = true
		close(o.settled)
	}
}
