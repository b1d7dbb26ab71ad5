package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/localsocket"
)

// An Entry is a device as the engine has it: its spec holds the desired values that apply. Model is nil where there is none.
// Neither is changed after it was handed out.
type Entry struct {
	Device *v1beta1.Device
	Model  *v1beta1.DeviceModel
	// Born is another number where the device is not the one of the name that there was, or was away: the engine knows nothing of
	// what its mapper reported before.
	Born uint64
}

// Devices is the engine that owns the devices of the node. All of it may be called at the same time from several goroutines.
type Devices interface {
	// OfProtocol returns the devices whose mapper is that of the protocol.
	OfProtocol(protocol string) []Entry
	// Device returns one device, false if the node has none of the name.
	Device(namespace, name string) (Entry, bool)
	// Report takes what a device has; the twins were judged. It may block for storage, until ctx ends.
	Report(ctx context.Context, namespace, name string, twins []v1beta1.Twin) error
	// ReportState takes one of online, offline, ok, unknown and unhealthy.
	ReportState(ctx context.Context, namespace, name, state string) error
}

// Memory keeps what must outlive the process.
type Memory interface {
	Put(ctx context.Context, bucket, key string, value []byte) error
	Delete(ctx context.Context, bucket string, keys ...string) error
	All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error
}

// Config are the limits. Zero values are the defaults.
type Config struct {
	// Socket is where mappers register: an absolute path of at most 107 bytes. Default /etc/kubeedge/dmi.sock.
	Socket string
	// CallTimeout bounds each call, in both directions. Default 5 s.
	CallTimeout time.Duration
	// ProbeInterval is how often an idle mapper is asked whether it is there. Default 5 s.
	ProbeInterval time.Duration
	// MaxMappers bounds the protocols that have a mapper. Default 64.
	MaxMappers int
	// MaxCalls bounds the calls by mappers that are served at a time, and MaxMessage the bytes of each. Default 64 and 1 MiB.
	MaxCalls, MaxMessage int
	// RetryBase and RetryMax space out retries for one device. Default 200 ms and 1 min.
	RetryBase, RetryMax time.Duration
	// MarksEvery is how often it is saved which state of its devices a mapper knows. Default 1 min.
	MarksEvery time.Duration
}

func (c Config) withDefaults() Config {
	set := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	count := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if c.Socket == "" {
		c.Socket = "/etc/kubeedge/dmi.sock"
	}
	set(&c.CallTimeout, 5*time.Second)
	set(&c.ProbeInterval, 5*time.Second)
	set(&c.RetryBase, 200*time.Millisecond)
	set(&c.RetryMax, time.Minute)
	set(&c.MarksEvery, time.Minute)
	count(&c.MaxMappers, 64)
	count(&c.MaxCalls, 64)
	count(&c.MaxMessage, 1<<20)
	return c
}

// Deps are what a Server works with. Connected, Told and Given may be nil; they are called from several goroutines, must not block
// for long, and may call back.
type Deps struct {
	Devices Devices
	Memory  Memory
	Log     *slog.Logger
	Now     func() time.Time
	// Connected says that the mapper of a protocol came or went. Of a protocol that it was never called for there is none.
	Connected func(protocol string, connected bool, since time.Time)
	// Told says how telling the mapper of a device went; nil once the mapper knows the current state, and where it is told nothing since
	// the device cannot work as it is. It is not called for a device that waits for a mapper that is away.
	Told func(namespace, name string, err error)
	// Given says that the mapper of a device knows it as it is here, which is not to be changed. It is said again and again.
	Given    func(d *dmi.Device)
	Registry prometheus.Registerer
}

// Server is the edge's side of the interface. Make it with New.
type Server struct {
	dmi.UnimplementedDeviceManagerServiceServer
	cfg     Config
	deps    Deps
	metrics *metrics
	places  chan struct{} // one for each call being served

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	mappers map[string]*mapper // by protocol; each was started
	running sync.WaitGroup     // of the mappers; added to only while ctx is set
}

// New returns a server that Start will run. The error says what in cfg cannot work.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if path, err := ParseAddress([]byte(cfg.Socket)); err != nil || path != cfg.Socket {
		return nil, fmt.Errorf("socket for mappers: expected an absolute path of at most %d bytes, found %q", maxPath, cfg.Socket)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Connected == nil {
		deps.Connected = func(string, bool, time.Time) {}
	}
	if deps.Told == nil {
		deps.Told = func(string, string, error) {}
	}
	if deps.Given == nil {
		deps.Given = func(*dmi.Device) {}
	}
	s := &Server{cfg: cfg, deps: deps, places: make(chan struct{}, cfg.MaxCalls), mappers: map[string]*mapper{}}
	s.metrics = newMetrics(deps.Registry)
	return s, nil
}

// Start serves until ctx ends. Mappers that registered with an earlier process get their devices at once. The error says what
// is wrong with the socket: that another process listens on it, for one.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, err := localsocket.Listen(ctx, s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen for mappers: %w", err)
	}
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	defer s.stopAll()
	if err := s.recall(ctx); err != nil {
		s.deps.Log.Error("cannot read which mappers there were; each has to register again", "error", err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(s.cfg.MaxMessage), grpc.MaxConcurrentStreams(16), grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(s.cfg.CallTimeout), grpc.UnaryInterceptor(s.guard), grpc.StatsHandler(tally{s.metrics}), grpc.UnknownServiceHandler(s.unknown))
	dmi.RegisterDeviceManagerServiceServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(newPlaces(listener, maxConnections, s.metrics.refused)) }()
	s.deps.Log.Info("mappers can register", "socket", s.cfg.Socket)
	select {
	case <-ctx.Done():
		server.Stop()
		<-ended
		return nil
	case err := <-ended:
		return fmt.Errorf("serve mappers: %w", err)
	}
}

// stopAll ends all mappers and waits for them.
func (s *Server) stopAll() {
	s.mu.Lock()
	s.ctx = nil
	for _, m := range s.mappers {
		m.stop()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Changed says that a device, its model or one of its desired values is new, changed or gone. It only notes the name: the
// current state is read when the mapper's turn comes. It never blocks and calls nothing back.
func (s *Server) Changed(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Whose device it was and whose it is now is for the mappers to find out: most have nothing to do.
	for _, m := range s.mappers {
		m.queue.Add(device.ID(namespace, name))
	}
}

// Registered returns the mappers, connected or not, by protocol.
func (s *Server) Registered() []Mapper {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Mapper
	for _, m := range s.mappers {
		out = append(out, m.info())
	}
	slices.SortFunc(out, func(a, b Mapper) int { return strings.Compare(a.Protocol, b.Protocol) })
	return out
}

// A Mapper is one that registered.
type Mapper struct {
	Protocol, Name, Version, Address string
	Connected                        bool
	Since                            time.Time // of Connected
	Devices                          int       // that it was told of
}

// errFull says that there are too many mappers.
var errFull = errors.New("too many mappers")

// replace puts m in the place of its protocol's former mapper and starts it.
func (s *Server) replace(m *mapper) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return errors.New("the edge is stopping")
	}
	former := s.mappers[m.Protocol]
	if former == nil && len(s.mappers) >= s.cfg.MaxMappers {
		if former = s.longestAway(); former == nil {
			return fmt.Errorf("%w: expected at most %d, all of which are connected", errFull, s.cfg.MaxMappers)
		}
		s.deps.Log.Warn("a mapper that is away gives way to a new one", "protocol", former.Protocol, "for", m.Protocol)
		delete(s.mappers, former.Protocol)
		s.metrics.forget(former.Protocol)
	}
	if former != nil {
		former.stop()
	}
	s.mappers[m.Protocol] = m
	s.metrics.registered.Set(float64(len(s.mappers)))
	ctx := s.ctx // Start's end takes it away, perhaps before the goroutine looks
	s.running.Go(func() { m.run(ctx, former) })
	return nil
}

// longestAway returns the mapper that has been away for longest, nil if all are connected. mu is held.
func (s *Server) longestAway() (away *mapper) {
	for _, m := range s.mappers {
		if i := m.info(); !i.Connected && (away == nil || i.Since.Before(away.info().Since)) {
			away = m
		}
	}
	return away
}
