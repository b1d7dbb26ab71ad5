package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// shown puts an edge's Node as the cluster shows it, with an endpoint.
func (n *nodes) shown(name, address string, port int32) {
	n.edge(name, fmt.Sprint(port))
	o, _ := n.Object(object.Key{Kind: object.Nodes, Name: name})
	node := o.(*corev1.Node)
	node.Annotations[AnnotationAddresses] = `{"addresses":[{"type":"Hostname","address":"gw"},{"type":"InternalIP","address":"192.168.7.7"}],"port":10350}`
	node.Status.Addresses = endpoint(address)
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = port
	n.set(name, node)
}

// discovery serves a world's discovery port and returns its URL.
func (w *world) discovery(ready func() error) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.ServeDiscovery(ctx, l, ready) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

func get(t *testing.T, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Header.Set("X-Remote-User", "list/")
	r.Header.Set("X-Remote-Group", "system:masters")
	resp, err := insecure.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestScrapersLearnWhatTheNodesShow: the list has each edge that shows an endpoint, whichever CloudCore is asked and
// whatever address that one has, and is for those who may list nodes.
func TestScrapersLearnWhatTheNodesShow(t *testing.T) {
	n := newNodes()
	w := newWorld(t, n, firstPort+70, firstPort+74)
	other := newWorldAt(t, n, "127.0.0.2", firstPort+70, firstPort+74) // its address is the same; what the Nodes show counts
	url, otherURL := w.discovery(func() error { return nil }), other.discovery(func() error { return errors.New("not yet") })

	if code, body := get(t, url+DiscoveryPath, "list/"); code != http.StatusOK || strings.TrimSpace(body) != "[]" {
		t.Errorf("without nodes: status %d, %q: expected an empty list", code, body)
	}
	n.shown("b", "cloud.example", firstPort+71)
	n.shown("a", "2001:db8::1", firstPort+70)
	n.edge("new", fmt.Sprint(firstPort+72)) // its kubelet has not reported yet
	n.shown("before", "192.168.7.8", 10350) // its Node shows its kubelet's own address, from before there was an endpoint
	before, _ := n.Object(object.Key{Kind: object.Nodes, Name: "before"})
	delete(before.GetAnnotations(), AnnotationAddresses)
	n.set("before", before.(*corev1.Node))
	stock := &corev1.Node{}
	stock.Name, stock.Status.Addresses = "stock", endpoint("192.0.2.77")
	stock.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	n.set("stock", stock)
	for _, u := range []string{url, otherURL} {
		code, body := get(t, u+DiscoveryPath, "list/")
		var got []target
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
			t.Fatalf("status %d, %v: %s", code, err, body)
		}
		want := []target{
			{[]string{fmt.Sprintf("[2001:db8::1]:%d", firstPort+70)}, map[string]string{labelNode: "a", labelInstance: "a", labelAddress: "192.168.7.7"}},
			{[]string{fmt.Sprintf("cloud.example:%d", firstPort+71)}, map[string]string{labelNode: "b", labelInstance: "b", labelAddress: "192.168.7.7"}},
		}
		if !slices.EqualFunc(got, want, func(a, b target) bool { return slices.Equal(a.Targets, b.Targets) && maps.Equal(a.Labels, b.Labels) }) {
			t.Errorf("got %v, expected %v", got, want)
		}
	}
	for _, c := range []struct {
		url, path, token string
		code             int
		text             string
	}{
		{url, DiscoveryPath, "", 401, "Unauthorized"}, {url, DiscoveryPath, "broken", 401, "Unauthorized"},
		{url, DiscoveryPath, "get/metrics", 403, "verb=list, resource=nodes"}, {url, DiscoveryPath, "unknown", 500, "could not be looked up"},
		{url, DiscoveryPath + "/a", "list/", 404, ""}, {url, "/metrics", "list/", 404, ""}, {url, "/debug/pprof/", "list/", 404, ""},
		{url, "/healthz", "", 200, "ok"}, {url, "/readyz", "", 200, "ok"}, {otherURL, "/readyz", "", 503, "not yet"},
	} {
		code, body := get(t, c.url+c.path, c.token)
		if code != c.code || !strings.Contains(body, c.text) {
			t.Errorf("GET %s as %q: status %d, %q: expected %d and %q", c.path, c.token, code, body, c.code, c.text)
		}
		if code != 200 && strings.Contains(body, "cloud.example") {
			t.Errorf("GET %s as %q tells of a node: %s", c.path, c.token, body)
		}
	}
}

// TestASilentScraperKeepsNoPlace: with every place held by connections that say nothing, the next is served when theirs end.
func TestASilentScraperKeepsNoPlace(t *testing.T) {
	w := newWorld(t, newNodes(), firstPort+76, firstPort+77)
	url := w.discovery(func() error { return nil })
	address := strings.TrimPrefix(url, "https://")
	for range maxDiscoveries {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	start := time.Now()
	client := *insecure
	client.Timeout = 2 * discoveryTimeout
	resp, err := client.Get(url + "/healthz")
	if err != nil {
		t.Fatalf("after %s: %v", time.Since(start), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %s", resp.Status)
	}
	if took := time.Since(start); took > 2*handshakeTimeout {
		t.Errorf("those who say nothing keep their places for %s, expected %s", took, handshakeTimeout)
	}
}
