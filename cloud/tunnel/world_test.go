package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
)

const day = 24 * time.Hour

// nodes is a cluster of Nodes: cache and API server at once.
type nodes struct {
	writing sync.Mutex // one patch at a time

	mu      sync.Mutex // guards all below
	nodes   map[string]*corev1.Node
	notify  map[int]func([]object.Key)
	next    int
	patches int
	version int
}

func (n *nodes) Object(k object.Key) (object.Object, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o, ok := n.nodes[k.Name]
	if !ok {
		return nil, false
	}
	return o.DeepCopy(), true
}

func (n *nodes) WaitSynced(context.Context) error { return nil }

func (n *nodes) Keys(object.ID) (keys []object.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.nodes {
		keys = append(keys, object.Key{Kind: object.Nodes, Name: name})
	}
	return keys
}

func (n *nodes) Follow(_ []object.ID, notify func([]object.Key)) (cancel func()) {
	n.mu.Lock()
	id := n.next
	n.next++
	n.notify[id] = notify
	var keys []object.Key
	for name := range n.nodes {
		keys = append(keys, object.Key{Kind: object.Nodes, Name: name})
	}
	n.mu.Unlock()
	go notify(keys) // as the cache does: from a goroutine of its own
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.notify, id)
	}
}

// written counts the patches so far.
func (n *nodes) written() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.patches
}

// set puts a Node, or removes it where n is nil.
func (n *nodes) set(name string, node *corev1.Node) {
	n.mu.Lock()
	if node == nil {
		delete(n.nodes, name)
	} else {
		n.version++
		node.ResourceVersion = strconv.Itoa(n.version)
		n.nodes[name] = node
	}
	var all []func([]object.Key)
	for _, f := range n.notify {
		all = append(all, f)
	}
	n.mu.Unlock()
	for _, f := range all {
		f([]object.Key{{Kind: object.Nodes, Name: name}})
	}
}

// edge puts an edge's Node, with the port that it is noted to have.
func (n *nodes) edge(name, port string) {
	n.set(name, edgeNode(name, port))
}

func edgeNode(name, port string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.NodeSpec{ProviderID: "tether://" + name}}
	if port != "" {
		node.Annotations = map[string]string{AnnotationPort: port}
	}
	return node
}

func (n *nodes) port(name string) string {
	o, ok := n.Object(object.Key{Kind: object.Nodes, Name: name})
	if !ok {
		return ""
	}
	return o.GetAnnotations()[AnnotationPort]
}

// patch is what the API server does with the annotation.
func (n *nodes) patch(a clienttesting.Action) (bool, runtime.Object, error) {
	p := a.(clienttesting.PatchAction)
	var body struct {
		Metadata struct {
			Annotations     map[string]string
			ResourceVersion string
		}
		Status struct {
			DaemonEndpoints struct{ KubeletEndpoint struct{ Port int32 } }
		}
	}
	if err := json.Unmarshal(p.GetPatch(), &body); err != nil {
		return true, nil, err
	}
	n.writing.Lock()
	defer n.writing.Unlock()
	o, ok := n.Object(object.Key{Kind: object.Nodes, Name: p.GetName()})
	if !ok {
		return true, nil, apierrors.NewNotFound(corev1.Resource("nodes"), p.GetName())
	}
	node := o.(*corev1.Node)
	if v := body.Metadata.ResourceVersion; v != "" && v != node.ResourceVersion {
		return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), p.GetName(), errors.New("another version"))
	}
	if p.GetSubresource() == "status" {
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = body.Status.DaemonEndpoints.KubeletEndpoint.Port
	}
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	for k, v := range body.Metadata.Annotations {
		node.Annotations[k] = v
	}
	n.mu.Lock()
	n.patches++
	n.mu.Unlock()
	n.set(node.Name, node)
	return true, node, nil
}

// get is how the API server shows a Node.
func (n *nodes) get(a clienttesting.Action) (bool, runtime.Object, error) {
	name := a.(clienttesting.GetAction).GetName()
	o, ok := n.Object(object.Key{Kind: object.Nodes, Name: name})
	if !ok {
		return true, nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	return true, o.(*corev1.Node), nil
}

// world is a Server with a kubelet behind it.
type world struct {
	t       *testing.T
	nodes   *nodes
	server  *Server
	kubelet *httptest.Server
	stop    func()

	mu      sync.Mutex // guards all below
	away    bool
	blind   string          // a Node that it does not see
	other   string          // the host of the CloudCore that holds the nodes; empty for this one
	asked   []*http.Request // by the kubelet, in order
	doubted []string        // nodes that did not answer
}

// Callers are known by their tokens; what they may do is in their names, as verb/subresource.
func callers() Callers {
	return Callers{
		Authenticator: authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok {
				return nil, false, nil
			}
			if token == "broken" {
				return nil, false, errors.New("the review failed")
			}
			return &authenticator.Response{User: &user.DefaultInfo{Name: token}}, true, nil
		}),
		Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetUser().GetName() == "unknown" {
				return authorizer.DecisionNoOpinion, "", errors.New("the API server is away")
			}
			if a.GetResource() == "nodes" && a.GetUser().GetName() == a.GetVerb()+"/"+a.GetSubresource() {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		}),
	}
}

func newNodes() *nodes {
	return &nodes{nodes: map[string]*corev1.Node{}, notify: map[int]func([]object.Key){}}
}

// newWorld serves the ports from first on.
func newWorld(t *testing.T, n *nodes, first, last int) *world {
	t.Helper()
	return newWorldAt(t, n, "127.0.0.1", first, last)
}

// newWorldAt serves them at an address. Without change a node takes more requests than any test makes.
func newWorldAt(t *testing.T, n *nodes, bind string, first, last int, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, nodes: n}
	w.kubelet = httptest.NewServer(http.HandlerFunc(w.answer))
	t.Cleanup(w.kubelet.Close)
	ca, err := pki.NewCA("edge CA", 365*day, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueServer([]string{"127.0.0.1"}, day)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	client.PrependReactor("patch", "nodes", n.patch)
	client.PrependReactor("get", "nodes", n.get)
	cfg := Config{Address: "192.0.2.1", BindAddress: bind, FirstPort: first, LastPort: last, MaxRequests: 1 << 20}
	for _, f := range change {
		f(&cfg)
	}
	w.server = New(cfg, Deps{
		Client: client, Cache: n, IsEdge: w.isEdge,
		Open: w.open, Holds: func(string) bool { return w.holder() == "" }, Holder: func(context.Context, string) (string, error) { return w.holder(), nil }, Busy: func(err error) bool { return errors.Is(err, errBusy) }, LastHeard: func(string) time.Time { return time.Now().Add(-time.Hour) }, Doubt: w.doubt, Callers: callers(),
		Certificate: func() *tls.Certificate { return &cert }, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Start(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// errBusy: a node has no room for another stream.
var errBusy = errors.New("it has as many streams open as it may")

func (w *world) open(ctx context.Context, node string) (net.Conn, error) {
	w.mu.Lock()
	away := w.away
	w.mu.Unlock()
	switch {
	case node == "silent": // until it is doubted
		w.mu.Lock()
		defer w.mu.Unlock()
		for !slices.Contains(w.doubted, node) {
			w.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			w.mu.Lock()
		}
		return nil, errors.New("its session was lost")
	case node == "busy":
		return nil, errBusy
	case away:
		return nil, fmt.Errorf("%s went away", node)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", w.kubelet.Listener.Addr().String())
}

func (w *world) doubt(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doubted = append(w.doubted, node)
}

func (w *world) isEdge(n *corev1.Node) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.HasPrefix(n.Spec.ProviderID, "tether://") && n.Name != w.blind
}

// see has it see every Node but one.
func (w *world) see(allBut string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blind = allBut
}

func (w *world) holder() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.other
}

func (w *world) answer(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked = append(w.asked, r)
	w.mu.Unlock()
	if r.Header.Get("Upgrade") != "" {
		c, rest, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		_, _ = io.Copy(c, rest)
		return
	}
	if r.URL.Path == "/slow" {
		<-r.Context().Done()
		return
	}
	fmt.Fprintf(rw, "kubelet: %s %s", r.Method, r.URL)
}

func (w *world) requests() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// eventually waits for a condition, 20 s at most.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// ready waits for a node's port and returns it.
func (w *world) ready(node string) int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	port, err := w.server.Port(ctx, node)
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the port to be open", func() bool { return open(port) })
	return port
}

// open reports whether somebody listens on a port.
func open(port int) bool {
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

var insecure = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// ask asks a node's port by GET.
func (w *world) ask(node, path, token string) (int, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", w.ready(node), path), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("X-Remote-User", "admin")
	r.Header.Set("X-Remote-Group", "system:masters")
	resp, err := insecure.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
