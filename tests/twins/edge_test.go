package twins

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/edge/device"
	"github.com/tether-edge/tether/edge/edgecore/devices"
	"github.com/tether-edge/tether/edge/edgecore/uplink"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/store"
	"github.com/tether-edge/tether/tests/powercut"
)

// edge is an edgecore without its kubelet, on a disk that can lose power.
type edge struct {
	t      *testing.T
	node   string
	server string // where it dials
	dir    string
	disks  int
	id     *pki.Identity
	roots  *pki.Authorities
	cfg    v1alpha1.EdgeDevices
	log    *slog.Logger

	disk *powercut.Disk

	mu   sync.Mutex // guards all below
	runs *running   // nil while it is down
}

// running is one process of the edge.
type running struct {
	store   *store.Store
	devices *devices.Devices
	link    *link.Link
	cancel  context.CancelFunc
	done    chan error
}

func (e *edge) storeDir() string { return filepath.Join(e.dir, fmt.Sprintf("store-%d", e.disks)) }

func (e *edge) start() {
	e.t.Helper()
	var err error
	if e.disk, err = powercut.New(e.storeDir()); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	reg := prometheus.NewRegistry()
	part := func(name string) *slog.Logger { return e.log.With("part", name) }
	if r.store, err = store.Open(ctx, store.Config{Dir: e.storeDir(), NodeName: e.node, EventQuota: 8 << 20, CopyInterval: time.Hour},
		store.Deps{Log: part("store"), Registerer: reg}); err != nil {
		e.t.Fatalf("open the store after %d power cuts: %v", e.disks, err)
	}
	if damaged := r.store.Status().Damaged; damaged != "" {
		e.t.Errorf("after %d power cuts the database is damaged: %s", e.disks, damaged)
	}
	if r.devices, err = devices.New(e.node, e.cfg, devices.Deps{Store: r.store, Log: e.log, Now: time.Now, Registerer: reg,
		Happened: func(context.Context, object.Outgoing) error { return nil }}); err != nil {
		e.t.Fatal(err)
	}
	dial := func(ctx context.Context, way link.Way) (transport.Stream, error) {
		s, err := transport.Dial(ctx, way.Server, pki.ClientTLS(e.id, e.roots, pki.ServerName, time.Now))
		return s, pki.Explain(err, time.Now)
	}
	r.link, err = link.New(link.Config{Node: e.node, Servers: []link.Server{{WebSocket: e.server}}, Software: "test", PingInterval: 3 * time.Second},
		link.Deps{Dial: dial, Store: uplink.Store{Store: r.store}, LeaseAge: func() time.Duration { return time.Second }, Log: part("link"), Registry: reg})
	if err != nil {
		e.t.Fatal(err)
	}
	group := run.New(e.log)
	group.Add("store", r.store)
	r.devices.Add(group)
	group.Add("link", r.link)
	go func() { r.done <- group.Start(ctx) }()
	e.mu.Lock()
	e.runs = r
	e.mu.Unlock()
}

// end stops the edge as its service manager does.
func (e *edge) end() {
	if r := e.take(); r != nil {
		r.cancel()
		if err := <-r.done; err != nil {
			e.t.Errorf("the edge ended: %v", err)
		}
		if err := r.store.Close(); err != nil {
			e.t.Errorf("close the store: %v", err)
		}
		e.disk.Forget()
	}
}

// cutPower ends the edge in the middle of whatever it does. Of what it did not sync any part is left.
func (e *edge) cutPower(random *rand.Rand) {
	r := e.take()
	if r == nil {
		return
	}
	e.disks++
	kept := random.Float64() // from nearly nothing to nearly all
	if err := e.disk.Cut(e.storeDir(), func() bool { return random.Float64() < kept }); err != nil {
		e.t.Fatal(err)
	}
	r.cancel()
	<-r.done            // without a disk it says whatever it likes
	_ = r.store.Close() // likewise
	e.disk.Forget()
}

func (e *edge) take() *running {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runs
	e.runs = nil
	return r
}

// now is the process that runs, nil for none.
func (e *edge) now() *running {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs
}

// view is a device as the edge has it; not ok while the edge is down or does not have it.
func (e *edge) view(name, namespace string) (device.View, bool) {
	r := e.now()
	if r == nil {
		return device.View{}, false
	}
	return r.devices.Engine.Device(namespace, name)
}
