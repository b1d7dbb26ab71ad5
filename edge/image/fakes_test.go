package image

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// notes is a Memory. The zero value is empty.
type notes struct {
	mu     sync.Mutex
	values map[string]string
	writes int
	full   bool // writes fail
}

func (n *notes) Put(_ context.Context, key string, value []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full {
		return errors.New("the disk is full")
	}
	if n.values == nil {
		n.values = map[string]string{}
	}
	n.values[key] = string(value)
	n.writes++
	return nil
}

func (n *notes) Delete(_ context.Context, keys ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range keys {
		delete(n.values, k)
	}
	n.writes++
	return nil
}

func (n *notes) All(_ context.Context, visit func(key string, value []byte) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, v := range n.values {
		if err := visit(k, []byte(v)); err != nil {
			return err
		}
	}
	return nil
}

// heardOf gathers what Served is told.
type heardOf struct {
	mu  sync.Mutex
	all []Served
}

func (h *heardOf) add(s Served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, s)
}

func (h *heardOf) list() []Served {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Served(nil), h.all...)
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// service runs a Service as edgecore does and returns a kubelet's connection to it. It ends with the test, or by stop.
func service(t *testing.T, cfg Config, deps Deps) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	cfg.Socket = filepath.Join(t.TempDir(), "i.sock")
	if cfg.RuntimeEndpoint == "" {
		cfg.RuntimeEndpoint = cfg.ImageEndpoint
	}
	if deps.Memory == nil {
		deps.Memory = &notes{}
	}
	if deps.Pods == nil {
		deps.Pods = func(context.Context) ([]string, error) { return nil, nil }
	}
	deps.Log = testLog(t)
	if deps.Registry == nil {
		deps.Registry = prometheus.NewRegistry()
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	if conn, err = dial(s.Endpoint()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ready, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	// A socket that is not there yet is tried again.
	if _, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(ready, &runtimeapi.ImageFsInfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("the image service does not come up: %v", err)
	}
	return conn, stop
}
