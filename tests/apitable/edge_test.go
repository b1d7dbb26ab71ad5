package apitable

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/kubeapi"
	"github.com/tether-edge/tether/edge/store"
)

// edge is the local API over a store that holds what the hub would have sent.
type edge struct {
	t     *testing.T
	store *store.Store
	node  http.RoundTripper
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// relay makes the edge's calls at the real API server, in the node's name, as the hub does.
type relay struct{ real *reality }

func (r relay) Call(ctx context.Context, c object.Call) (object.Reply, error) {
	path := "/api/v1/namespaces/" + c.Key.Namespace + "/" + string(c.Key.Kind) + "/" + c.Key.Name + "/" + c.Subresource
	method := http.MethodPost
	if c.Verb == "patch" {
		method, path = http.MethodPatch, "/api/v1/"+string(c.Key.Kind)+"/"+c.Key.Name
	}
	resp, err := send(ctx, r.real.node, r.real.base, row{method: method, path: path, contentType: c.ContentType, body: string(c.Body)})
	if err != nil {
		return object.Reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return object.Reply{Code: resp.StatusCode, ContentType: resp.Header.Get("Content-Type"), Body: b}, err
}

func startEdge(t *testing.T, real *reality) *edge {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	s, err := store.Open(ctx, store.Config{Dir: t.TempDir(), NodeName: nodeName, EventQuota: 1 << 20, CopyInterval: time.Hour}, store.Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	api, err := kubeapi.New(kubeapi.Config{NodeName: nodeName, Version: "v1.36.3"},
		kubeapi.Deps{Store: s, Cloud: relay{real}, Log: log, Clock: wallClock{}})
	if err != nil {
		t.Fatal(err)
	}
	var ids []object.ID
	for _, k := range object.Synced() {
		ids = append(ids, k.ID())
	}
	if err := s.MarkSynced(ctx, ids); err != nil {
		t.Fatal(err)
	}
	return &edge{t: t, store: s, node: api.Transport()}
}

// receive stores o as the stream from the hub would.
func (e *edge) receive(id object.ID, o object.Object) {
	e.t.Helper()
	k, _ := object.Lookup(id)
	o = o.DeepCopyObject().(object.Object)
	object.Strip(o.(runtime.Object))
	body, err := object.Encode(k, o)
	if err != nil {
		e.t.Fatal(err)
	}
	v, err := object.VersionOf(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.apply(store.Incoming{Key: object.KeyOf(id, o), Version: v, Body: body})
}

// remove drops an object as a deletion in the cloud does.
func (e *edge) remove(id object.ID, o metav1.Object) {
	e.t.Helper()
	v, err := object.VersionOf(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.apply(store.Incoming{Key: object.KeyOf(id, o), Version: v, Cause: object.CauseDeleted})
}

func (e *edge) apply(in store.Incoming) {
	e.t.Helper()
	if err := e.store.ApplyBatch(context.Background(), []store.Incoming{in}); err != nil {
		e.t.Fatal(err)
	}
}
