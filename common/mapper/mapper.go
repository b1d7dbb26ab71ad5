package mapper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/localsocket"
)

// Options are what a mapper is made of. Protocol and Open are required.
type Options struct {
	// Protocol is the protocolName of the devices that the mapper looks after.
	Protocol string
	// Name and Version are shown at the edge. Name is the protocol by default.
	Name, Version string
	// Socket is where the mapper listens, EdgeSocket where the edge does. Defaults: mapper-PROTOCOL.sock beside EdgeSocket, and
	// /etc/kubeedge/dmi.sock.
	Socket, EdgeSocket string
	// Open reaches a device. An error is tried again.
	Open func(ctx context.Context, d Device) (Driver, error)
	// Push are ways to push values besides http, by the name of the field in pushMethod: mqtt, otel, anomalyDetection, or those of
	// dbMethod: influxdb2, redis, tdengine, mysql.
	Push map[string]NewPush
	// Timeout bounds each call of a driver and of the edge. Default 5 s.
	Timeout time.Duration
	// RetryMax bounds the delays between tries. Default 30 s.
	RetryMax time.Duration
	Log      *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Protocol == "" || o.Open == nil {
		return o, errors.New("a mapper needs a protocol and a function that opens devices")
	}
	o.Name = cmp.Or(o.Name, o.Protocol)
	o.EdgeSocket = cmp.Or(o.EdgeSocket, "/etc/kubeedge/dmi.sock")
	o.Socket = cmp.Or(o.Socket, filepath.Join(filepath.Dir(o.EdgeSocket), "mapper-"+filepath.Base(o.Protocol)+".sock"))
	var err error
	if o.Socket, err = filepath.Abs(o.Socket); err != nil { // the edge has another working directory
		return o, fmt.Errorf("the mapper's socket: %w", err)
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o, nil
}

// host is a running mapper.
type host struct {
	dmi.UnimplementedDeviceMapperServiceServer
	Options
	ctx  context.Context
	edge dmi.DeviceManagerServiceClient
	conn *grpc.ClientConn
	made atomic.Int64 // connections to the edge
	turn atomic.Int64 // odd until the mapper has registered, and while it does so again: see lock
	all  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	models  map[string]*dmi.DeviceModel
	devices map[string]*worker
}

// Run is a mapper, until ctx ends. The error says what is wrong with the options or the mapper's socket; an edge that is not there
// is waited for.
func Run(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &host{Options: o, ctx: ctx, models: map[string]*dmi.DeviceModel{}, devices: map[string]*worker{}}
	h.turn.Store(1)
	if err := h.dial(); err != nil {
		return err
	}
	defer h.conn.Close()
	listener, err := localsocket.Listen(ctx, o.Socket)
	if err != nil {
		return fmt.Errorf("listen for the edge: %w", err)
	}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(64), grpc.WaitForHandlers(true))
	dmi.RegisterDeviceMapperServiceServer(server, h)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	h.all.Go(h.keepRegistered)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-ended:
		ended <- err
		err = fmt.Errorf("serve the edge: %w", err)
	}
	cancel()
	server.Stop()
	<-ended
	h.all.Wait()
	return err
}

func (h *host) dial() (err error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", h.EdgeSocket)
		if err == nil {
			h.made.Add(1)
		}
		return c, err
	}
	h.conn, err = grpc.NewClient("passthrough:///edge", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithIdleTimeout(0), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)), grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: h.Timeout, Backoff: grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}}))
	if err == nil {
		h.edge = dmi.NewDeviceManagerServiceClient(h.conn)
	}
	return err
}

// keepRegistered registers on each new connection to the edge: behind it may be an edge that remembers nothing.
func (h *host) keepRegistered() {
	retry := backoff.New(backoff.Config{Base: 200 * time.Millisecond, Max: h.RetryMax})
	registered := int64(0)
	for h.ctx.Err() == nil {
		state := h.conn.GetState()
		if state == connectivity.Idle {
			h.conn.Connect()
		}
		if made := h.made.Load(); state == connectivity.Ready && made != registered {
			if err := h.register(); err != nil {
				h.Log.Warn("cannot register at the edge; trying again", "socket", h.EdgeSocket, "error", err)
				_ = retry.Wait(h.ctx) // its error is that of ctx, which ends the loop
				continue
			}
			retry.Reset()
			registered = made
		}
		h.conn.WaitForStateChange(h.ctx, state)
	}
}

// register makes the mapper known, and replaces what it has by what the edge answers.
func (h *host) register() error {
	ctx, cancel := context.WithTimeout(h.ctx, h.Timeout)
	defer cancel()
	if h.turn.Load()%2 == 0 {
		h.turn.Add(1)
	}
	answer, err := h.edge.MapperRegister(ctx, &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{Name: h.Name, Version: h.Version,
		ApiVersion: "v1beta1", Protocol: h.Protocol, Address: []byte(h.Socket), State: "ok"}})
	if err != nil {
		return err
	}
	models := map[string]*dmi.DeviceModel{}
	for _, m := range answer.GetModelList() {
		models[device.ID(m.GetNamespace(), m.GetName())] = m
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.turn.Add(1)
	h.models = models
	kept := map[string]bool{}
	for _, d := range answer.GetDeviceList() {
		kept[device.ID(d.GetNamespace(), d.GetName())] = true
		if err := h.put(d, true); err != nil {
			h.Log.Error("a device cannot be looked after", "device", device.ID(d.GetNamespace(), d.GetName()), "error", err)
		}
	}
	for id, w := range h.devices {
		if !kept[id] {
			w.stop()
			delete(h.devices, id)
		}
	}
	h.Log.Info("registered at the edge", "protocol", h.Protocol, "models", len(models), "devices", len(kept))
	return nil
}
