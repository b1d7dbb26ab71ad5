package interest

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
	"github.com/tether-edge/tether/tests/cluster"
)

// A tap counts the watches and lists that go through it, by path.
type tap struct {
	http.RoundTripper
	mu    sync.Mutex
	paths map[string]int
	plain []string // requests that do not prefer protobuf
}

func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.paths[r.URL.Path]++
	if !strings.HasPrefix(r.Header.Get("Accept"), "application/vnd.kubernetes.protobuf") {
		p.plain = append(p.plain, r.URL.String())
	}
	p.mu.Unlock()
	return p.RoundTripper.RoundTrip(r)
}

// TestOneProtobufStreamPerKindFromARealAPIServer runs the cache against a stock kube-apiserver.
func TestOneProtobufStreamPerKindFromARealAPIServer(t *testing.T) {
	program, err := cluster.Program(t.Context(), "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	cp, err := cluster.ForTest(t).StartControlPlane(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	config, err := cp.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{paths: map[string]int{}}
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { p.RoundTripper = rt; return p })
	source, err := state.NewSource(config)
	if err != nil {
		t.Fatal(err)
	}
	comp, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	c := state.New(state.Config{}, state.Deps{
		Source: source, Compressor: comp, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Start(ctx) }()
	defer func() { cancel(); <-done }()
	wctx, wcancel := context.WithTimeout(ctx, deadline)
	defer wcancel()
	if err := c.WaitSynced(wctx); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		_, cancel := c.Subscribe("other", func([]object.Key) {})
		defer cancel()
	}
	told := make(chan object.Key, 100)
	v, stop := c.Subscribe("n", func(keys []object.Key) {
		for _, k := range keys {
			told <- k
		}
	})
	defer stop()
	if _, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := object.Key{Kind: object.Nodes, Name: "n"}
	for end := time.After(deadline); ; {
		select {
		case k := <-told:
			if k != want {
				continue
			}
		case <-end:
			t.Fatalf("not told of %s", want)
		}
		break
	}
	if item, ok := v.Get(want); !ok || item.Version.UID != v.NodeUID() || v.NodeUID() == "" {
		t.Errorf("the Node: %v, %v", item.Version, ok)
	}
	if o, ok := c.Object(want); !ok || len(o.GetManagedFields()) != 0 {
		t.Errorf("Object: %v, expected the Node without managedFields", o)
	}
	rv, err := c.ServerRevision(ctx)
	if err != nil || rv < v.Revision(object.Nodes) {
		t.Errorf("server revision %d, %v, expected at least %d", rv, err, v.Revision(object.Nodes))
	}
	if rv, err := source.Exists(ctx, want); err != nil || rv == 0 {
		t.Errorf("Exists: %d, %v", rv, err)
	}
	if rv, err := source.Exists(ctx, object.Key{Kind: object.Secrets, Namespace: "default", Name: "never"}); err != nil || rv != 0 {
		t.Errorf("Exists of nothing: %d, %v", rv, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.plain) > 0 {
		t.Errorf("requests without protobuf: %v", p.plain)
	}
	for _, id := range c.Kinds() {
		k, _ := object.Lookup(id)
		path := "/api/v1/" + k.Resource
		if k.Group != "" {
			path = "/apis/" + k.Group + "/" + k.Version + "/" + k.Resource
		}
		expected := 1
		if id == object.Nodes {
			expected = 2 // and the quorum read
		}
		if p.paths[path] != expected {
			t.Errorf("%s: %d requests, expected %d", path, p.paths[path], expected)
		}
	}
	// Its definitions of device kinds are not there.
	builtIn := slices.DeleteFunc(object.Watched(), func(k object.Kind) bool { return k.Custom })
	if len(c.Kinds()) != len(builtIn) {
		t.Errorf("kinds %v", c.Kinds())
	}
}
