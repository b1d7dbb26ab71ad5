package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
)

// ports are some that nobody else in these tests uses.
const firstPort = 21700

func TestANodeKeepsItsPort(t *testing.T) {
	n := newNodes()
	n.set("stock", &corev1.Node{})
	for _, name := range []string{"a", "b", "c"} {
		n.edge(name, "")
	}
	w := newWorld(t, n, firstPort, firstPort+5)
	given := map[string]int{}
	taken := map[int]bool{}
	for _, name := range []string{"a", "b", "c"} {
		given[name] = w.ready(name)
		taken[given[name]] = true
		eventually(t, "the port to be noted on the Node", func() bool { return n.port(name) == strconv.Itoa(given[name]) })
	}
	if len(taken) != 3 || n.port("stock") != "" {
		t.Fatalf("ports %v, stock %q: expected three, and none for a node that is no edge", given, n.port("stock"))
	}
	// Another start, in another order, with one Node whose port was taken from it and one that says a port of another.
	w.stop()
	n.edge("b", "")
	n.edge("d", strconv.Itoa(given["a"]))
	n.edge("e", "99")
	n.edge("f", "many")
	w = newWorld(t, n, firstPort, firstPort+5)
	for _, name := range []string{"a", "c"} {
		if port := w.ready(name); port != given[name] {
			t.Errorf("after another start %s has port %d, had %d", name, port, given[name])
		}
	}
	seen := map[int]string{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		port := w.ready(name)
		if other := seen[port]; other != "" {
			t.Errorf("%s and %s share port %d", name, other, port)
		}
		seen[port] = name
	}
	// Whatever somebody makes of the annotation, the port stays, and the annotation says so again.
	for _, wrong := range []string{"", strconv.Itoa(given["c"]), strconv.Itoa(firstPort + 5), "80"} {
		n.edge("c", wrong)
		eventually(t, "the annotation to be put right", func() bool { return n.port("c") == strconv.Itoa(given["c"]) })
		if port := w.ready("c"); port != given["c"] {
			t.Errorf("with annotation %q c has port %d, had %d", wrong, port, given["c"])
		}
	}
	// There is none left.
	n.edge("g", "")
	// A node that goes leaves its port closed, and finds it again.
	before := w.ready("a")
	n.set("a", nil)
	eventually(t, "the port of a Node that is gone to be closed", func() bool { return !open(before) })
	n.edge("a", strconv.Itoa(before))
	eventually(t, "it to be open again", func() bool { return open(before) })
}

// TestATakeoverWritesNoNode: a CloudCore that starts where another was, and finds every Node as that one left it, leaves it so.
func TestATakeoverWritesNoNode(t *testing.T) {
	n := newNodes()
	names := []string{"a", "b", "c"}
	for _, name := range names {
		n.edge(name, "")
	}
	given := map[string]int{}
	noted := func(w *world, name string) {
		t.Helper()
		given[name] = w.ready(name)
		eventually(t, "the port to be noted on the Node", func() bool { return n.port(name) == strconv.Itoa(given[name]) })
	}
	w := newWorld(t, n, firstPort, firstPort+5)
	for _, name := range names {
		noted(w, name)
	}
	w.stop()
	before := n.written()
	if before == 0 {
		t.Fatal("nothing was written for three new nodes: the test counts nothing")
	}
	w = newWorld(t, n, firstPort, firstPort+5)
	for _, name := range names {
		if port := w.ready(name); port != given[name] {
			t.Errorf("%s has port %d, had %d", name, port, given[name])
		}
	}
	// By the time that a new node is noted, what the others had to have written is.
	n.edge("new", "")
	noted(w, "new")
	if after := n.written(); after != before+1 {
		t.Errorf("%d writes of Nodes, expected one, for the new node", after-before)
	}
}

// A noted port that something else holds is the node's all the same: its Node is shown, and the port is opened when it can be.
func TestAPortThatIsTakenIsOpenedLater(t *testing.T) {
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", firstPort+60))
	if err != nil {
		t.Fatal(err)
	}
	n := newNodes()
	n.edge("a", strconv.Itoa(firstPort+60))
	w := newWorld(t, n, firstPort+60, firstPort+61)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if port, err := w.server.Port(ctx, "a"); err != nil || port != firstPort+60 {
		t.Fatalf("port %d, %v", port, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if code, body := w.ask("a", "/pods", "get/proxy"); code != 200 {
		t.Errorf("status %d: %s", code, body)
	}
}

func TestCallersAreJudgedBeforeTheEdgeHearsOfThem(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+10, firstPort+11)
	for _, c := range []struct {
		path, token string
		code        int
	}{
		{"/pods", "", 401}, {"/pods", "broken", 401}, {"/pods", "nobody", 403}, {"/pods", "unknown", 500},
		{"/pods", "get/pods", 200}, {"/pods", "get/proxy", 200}, {"/runningpods/", "get/pods", 200}, {"/healthz", "get/healthz", 200}, {"/healthz/ping", "get/healthz", 200},
		{"/configz", "get/configz", 200}, {"/flagz", "get/configz", 200}, {"/flagz", "get/proxy", 403},
		{"/metrics", "get/metrics", 200}, {"/metrics/cadvisor", "get/metrics", 200}, {"/metrics", "get/proxy", 403}, {"/metricsx", "get/metrics", 403},
		{"/stats/summary", "get/stats", 200}, {"/logs/", "get/log", 200}, {"/statusz", "get/statusz", 200}, {"/checkpoint/a/b/c", "get/checkpoint", 200},
		{"/exec/a/b/c", "get/proxy", 200}, {"/exec/a/b/c", "create/proxy", 403}, {"/", "get/proxy", 200},
		{"/metrics/../exec/a/b/c", "get/metrics", 400}, {"/metrics//x", "get/metrics", 400}, {"/metrics/..%2fpods", "get/metrics", 400}, {"/metrics/%2e%2e/pods", "get/metrics", 400},
	} {
		before := len(w.requests())
		code, body := w.ask("a", c.path, c.token)
		if code != c.code {
			t.Errorf("GET %s as %q: status %d, expected %d: %s", c.path, c.token, code, c.code, body)
		}
		if heard := len(w.requests()) > before; heard != (c.code == 200) {
			t.Errorf("GET %s as %q: the edge heard of it: %v", c.path, c.token, heard)
		}
	}
	for _, r := range w.requests() {
		for name := range r.Header {
			if name == "Authorization" || strings.HasPrefix(name, "X-") {
				t.Errorf("the edge was shown the caller's %s", name)
			}
		}
	}
	for method, verb := range map[string]string{"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "HEAD": ""} {
		r, _ := http.NewRequest(method, "https://x/run", nil)
		if got := attributes("a", &user.DefaultInfo{}, r)[0]; got.GetVerb() != verb || got.GetName() != "a" || got.GetSubresource() != "proxy" {
			t.Errorf("%s asks for %s of %s, subresource %s; expected %q", method, got.GetVerb(), got.GetName(), got.GetSubresource(), verb)
		}
	}
}

// upgrade opens a connection that is upgraded, as exec is.
func (w *world) upgrade(node string) (*tls.Conn, *bufio.Reader) {
	w.t.Helper()
	c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", w.ready(node)), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	fmt.Fprint(c, "POST /exec/a/b/c HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer create/proxy\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
	r := bufio.NewReader(c)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		w.t.Fatalf("got %v, %v", resp, err)
	}
	return c, r
}

func TestWhatIsUpgradedIsRelayedAsItIs(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+20, firstPort+21)
	c, r := w.upgrade("a")
	raw := strings.Repeat("\x80\x03\x00\x01 any bytes \xff", 1000)
	go func() { _, _ = io.WriteString(c, raw) }()
	got := make([]byte, len(raw))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != raw {
		t.Fatalf("after the upgrade %d bytes came back, %v", len(got), err)
	}
	if h := w.requests()[0].Header.Get("X-Stream-Protocol-Version"); h != "v4.channel.k8s.io" {
		t.Errorf("the protocol's own header arrived as %q", h)
	}
	// What is relayed has no place among the handshakes, however long it lasts.
	for range maxHandshakes {
		w.upgrade("a")
	}
	if code, body := w.ask("a", "/pods", "get/proxy"); code != 200 {
		t.Errorf("beside %d that are relayed: status %d: %s", maxHandshakes, code, body)
	}
}

func TestWhyANodeCannotBeAskedIsSaid(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+30, firstPort+31)
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()
	code, body := w.ask("a", "/pods", "get/proxy")
	if code != http.StatusBadGateway || !strings.Contains(body, `"a" cannot be asked: a went away`) || !strings.Contains(body, "1h0m0s ago") || readsAsMap(body) {
		t.Errorf("status %d: %s", code, body)
	}
}

func TestANodeWithoutRoomIsNotSaidToBeAway(t *testing.T) {
	n := newNodes()
	n.edge("busy", "")
	w := newWorld(t, n, firstPort+32, firstPort+33)
	code, body := w.ask("busy", "/pods", "get/proxy")
	if code != http.StatusBadGateway || !strings.Contains(body, "as many streams open as it may") || strings.Contains(body, "last heard") || readsAsMap(body) {
		t.Errorf("status %d: %s", code, body)
	}
}

// All that kubectl asks comes from one caller, the API server. Those who scrape are others.
func TestOneCallerLeavesRoomForOthers(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	const all, most = 64, 48
	w := newWorldAt(t, n, "127.0.0.1", firstPort+34, firstPort+35, func(c *Config) { c.MaxRequests = all })
	ctx, end := context.WithCancel(t.Context())
	var slow sync.WaitGroup
	defer slow.Wait()
	defer end()
	for range most {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/slow", w.ready("a")), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer get/proxy")
		slow.Go(func() {
			if resp, err := insecure.Do(r); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	eventually(t, "all are with the kubelet", func() bool { return len(w.requests()) == most })
	if code, body := w.ask("a", "/pods", "get/proxy"); code != http.StatusBadGateway || !strings.Contains(body, "get/proxy has as many requests under way") || readsAsMap(body) {
		t.Errorf("one more of the same caller: status %d: %s", code, body)
	}
	if code, body := w.ask("a", "/metrics", "get/metrics"); code != http.StatusOK {
		t.Errorf("another caller: status %d: %s", code, body)
	}
	end()
	slow.Wait()
	eventually(t, "those are counted whose caller went before the answer", func() bool {
		return testutil.ToFloat64(w.server.m.requests.WithLabelValues("abandoned")) == most
	})
	eventually(t, "the places are free again", func() bool { code, _ := w.ask("a", "/pods", "get/proxy"); return code == http.StatusOK })
}

func TestALongCommandIsRelayed(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+36, firstPort+37)
	if code, body := w.ask("a", "/pods?command="+strings.Repeat("%22", 128<<10), "get/proxy"); code != http.StatusOK {
		t.Errorf("status %d: %.200s", code, body)
	}
}

// A stranger gets one answer and is gone, whatever it promised to send.
func TestAStrangerIsDismissed(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+80, firstPort+81)
	c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", w.ready("a")), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("the protocol is %q, expected http/1.1", p)
	}
	fmt.Fprint(c, "POST /exec/a/b/c HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 401 ") {
		t.Errorf("got %q, then %v; expected a 401 and the end", b, err)
	}
}

// TestWhoHasNoRightKeepsNoConnection: it would keep a file of CloudCore's, which all nodes share.
func TestWhoHasNoRightKeepsNoConnection(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+82, firstPort+83)
	for token, want := range map[string]string{"nobody": "HTTP/1.1 403 ", "unknown": "HTTP/1.1 500 "} {
		c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", w.ready("a")), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", token)
		_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s: got %q, then %v; expected %s and the end", token, b, err, want)
		}
	}
}

// TestACallerThatSaysNoMoreIsNotToldThatAllIsWell: one that closes its half gets the answer or none, not an empty one.
func TestACallerThatSaysNoMoreIsNotToldThatAllIsWell(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+84, firstPort+85)
	c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", w.ready("a")), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /slow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer get/proxy\r\n\r\n")
	eventually(t, "the edge is asked", func() bool { return len(w.requests()) == 1 })
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("got %q for a request that the kubelet has not answered", b)
	}
}

// Connections that say nothing, on any port, keep those of other addresses out of none.
func TestStrangersHoldUpNobody(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	n.edge("b", "")
	w := newWorld(t, n, firstPort+40, firstPort+41)
	for i := range 2 * maxHandshakes {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", fmt.Sprint("127.0.0.1:", w.ready([]string{"a", "b"}[i%2])))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	begun := time.Now()
	if code, body := w.ask("a", "/pods", "get/proxy"); code != 200 {
		t.Errorf("beside strangers: status %d: %s", code, body)
	}
	if took := time.Since(begun); took > handshakeTimeout/2 {
		t.Errorf("beside strangers an answer took %s", took)
	}
}

// one is a view of one object.
type one struct {
	session.View
	item object.Item
}

func (o one) Get(object.Key) (object.Item, bool) { return o.item, true }

func TestTheClusterSeesTheEndpointAndTheEdgeItself(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, firstPort+50, firstPort+51)
	real := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}, {Type: corev1.NodeHostName, Address: "a"}}
	status := corev1.NodeStatus{Addresses: real}
	status.DaemonEndpoints.KubeletEndpoint.Port = 10350
	o := &object.Overlay{Node: &status}
	if !w.server.Await(t.Context(), "a") {
		t.Fatal("no port")
	}
	if err := w.server.Present("a", o); err != nil {
		t.Fatal(err)
	}
	for _, a := range o.Node.Addresses {
		if a.Address != "192.0.2.1" {
			t.Errorf("the cluster is shown %v", a)
		}
	}
	if got := o.Node.DaemonEndpoints.KubeletEndpoint.Port; int(got) != w.ready("a") {
		t.Errorf("the cluster is shown port %d, expected the node's, %d", got, w.ready("a"))
	}
	// Down again, as the cluster has it now.
	node := &corev1.Node{Status: *o.Node}
	node.Name, node.UID, node.ResourceVersion = "a", "u", "5"
	node.Annotations = map[string]string{AnnotationAddresses: *o.Annotations[AnnotationAddresses], "mine": "too"}
	kind, _ := object.Lookup(object.Nodes)
	get := func() *corev1.Node {
		body, err := object.Encode(kind, node)
		if err != nil {
			t.Fatal(err)
		}
		item, _ := View{View: one{item: object.Item{Version: object.Version{UID: "u", RV: 5}, Body: body}}, Log: slog.New(slog.DiscardHandler)}.Get(object.Key{Kind: object.Nodes, Name: "a"})
		seen, err := object.Decode(kind, item.Body)
		if err != nil || item.Version.RV != 5 {
			t.Fatalf("item %+v: %v", item.Version, err)
		}
		return seen.(*corev1.Node)
	}
	seen := get()
	if len(seen.Status.Addresses) != 2 || seen.Status.Addresses[0] != real[0] || seen.Status.DaemonEndpoints.KubeletEndpoint.Port != 10350 || seen.Annotations["mine"] != "too" {
		t.Errorf("the edge is shown %+v %v", seen.Status, seen.Annotations)
	}
	// What somebody made of the annotation harms nobody.
	for _, bad := range []string{"{", "[]", strings.Repeat("[", 10000)} {
		node.Annotations[AnnotationAddresses] = bad
		if seen := get(); seen.Name != "a" {
			t.Errorf("with annotation %.10q the edge is shown %v", bad, seen)
		}
	}
}

// readsAsMap reports whether an answer's text is a map of YAML, of which kubectl before 1.36 shows nothing.
func readsAsMap(text string) bool {
	var m map[string]any
	return yaml.Unmarshal([]byte(text), &m) == nil
}

// TestWhatIsUpgradedGoesOverAWideConnection: each record of TLS would be a system call on the way to the API server.
func TestWhatIsUpgradedGoesOverAWideConnection(t *testing.T) {
	w := newWorld(t, newNodes(), firstPort+94, firstPort+95)
	kind := make(chan string, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- transport.ServeHTTPS(ctx, &http.Server{TLSConfig: w.server.tls(), Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(widening{rw}).Hijack()
			kind <- fmt.Sprintf("%T, %v", c, err)
			if err == nil {
				_ = c.Close()
			}
		})}, l, 1, time.Minute)
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := <-kind; got != "*transport.WideTLS, <nil>" {
		t.Errorf("hijacked %s", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ServeHTTPS = %v at the end of its context", err)
	}
}

// TestANodeThatDoesNotAnswerIsDoubted: the session may be one that its edge left behind. Who holds the node is then asked, and the
// caller hears as soon as that is settled.
func TestANodeThatDoesNotAnswerIsDoubted(t *testing.T) {
	n := newNodes()
	n.edge("silent", "")
	n.edge("a", "")
	w := newWorld(t, n, firstPort+95, firstPort+96)
	if code, body := w.ask("silent", "/pods", "get/proxy"); code != http.StatusBadGateway || !strings.Contains(body, "its session was lost") {
		t.Errorf("status %d: %s", code, body)
	}
	if code, body := w.ask("a", "/pods", "get/proxy"); code != http.StatusOK {
		t.Errorf("status %d: %s", code, body)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.doubted, []string{"silent"}) {
		t.Errorf("doubted %v, expected the silent one once", w.doubted)
	}
}
