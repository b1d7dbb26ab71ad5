package mqtt

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Deps are what a Service works with.
type Deps struct {
	Devices Devices
	// Memory keeps sessions and messages; nil: they end with the process.
	Memory Memory
	// Users are those of the configuration, to be shared with other ports of the node; nil: the Service has its own.
	Users *Users
	// Upload takes what clients publish for the cloud; nil: it is counted and dropped. An error is logged.
	Upload func(ctx context.Context, topic string, payload []byte) error
	// Reached, if set, is called whenever clients, or an external broker, can be reached again: what was published before may be lost. It
	// must not block.
	Reached  func()
	Log      *slog.Logger
	Registry prometheus.Registerer
	Now      func() time.Time
}

// A Service is the MQTT side of devices.
type Service struct {
	cfg      Config
	deps     Deps
	metrics  *metrics
	answerer *answerer
	notices  chan message
	waiting  atomic.Int64 // bytes in notices
	users    *Users
	broker   atomic.Pointer[broker] // the one that runs, or ran last; nil before
	ready    chan struct{}
	once     sync.Once
	addr     string // set before ready is closed
}

const (
	// maxNotices and maxNoticeBytes bound what waits to be published.
	maxNotices     = 4096
	maxNoticeBytes = 16 << 20
)

// New returns a Service that does nothing until Start. cfg must be valid.
func New(cfg Config, deps Deps) *Service {
	s := &Service{cfg: cfg, deps: deps, metrics: newMetrics(deps.Registry), notices: make(chan message, maxNotices), ready: make(chan struct{})}
	if s.users = deps.Users; s.users == nil {
		s.users = makeUsers(cfg.Broker.Users, cfg.Broker.Anonymous, cfg.Broker.MoreUsers)
	}
	s.metrics.users.Set(float64(len(cfg.Broker.Users)))
	timeout := cfg.Broker.Limits.Request
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	s.answerer = &answerer{node: cfg.Node, devices: deps.Devices, upload: deps.Upload, maxPayload: cfg.MaxRequest, timeout: timeout,
		log: deps.Log, now: deps.Now, metrics: s.metrics}
	return s
}

// Start serves until ctx is done. It fails if it cannot listen, or cannot read what was kept.
func (s *Service) Start(ctx context.Context) error {
	if s.cfg.Mode == External {
		c := newClient(s.cfg.Server, s.cfg.Node, s.answerer)
		return s.with(ctx, c.publish, func(ctx context.Context) error { return c.serve(ctx, func() { s.reached(s.cfg.Server.URL) }) })
	}
	b := newBroker(s.cfg.Broker, s.cfg.Node, s.users, s.deps.Memory, s.answerer)
	s.broker.Store(b)
	return s.with(ctx, b.publish, func(ctx context.Context) error { return b.serve(ctx, s.reached) })
}

// SetUsers makes more the users beside those of the configuration, in place of what it was given before. It takes effect at once:
// rights are judged anew, and connections of users who are gone or have another password are closed. After an error everything is
// as it was.
func (s *Service) SetUsers(more []User) error {
	n, err := s.users.set(more)
	if err != nil {
		return err
	}
	s.metrics.users.Set(float64(n))
	if b := s.broker.Load(); b != nil {
		b.expel()
	}
	return nil
}

// Ready is closed once clients are served, or the external broker was reached for the first time.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Address is where the broker listens without TLS, host:port, or the URL of the external one. It is "" until Ready.
func (s *Service) Address() string {
	select {
	case <-s.ready:
		return s.addr
	default:
		return ""
	}
}

func (s *Service) reached(addr string) {
	s.once.Do(func() {
		s.addr = addr
		close(s.ready)
	})
	if s.deps.Reached != nil {
		s.deps.Reached()
	}
}

// with runs serve, and beside it what publishes notices.
func (s *Service) with(ctx context.Context, publish func(message), serve func(context.Context) error) error {
	var wg sync.WaitGroup
	publishing, stop := context.WithCancel(ctx)
	wg.Go(func() {
		select {
		case <-s.ready:
		case <-publishing.Done():
		}
		for publishing.Err() == nil {
			select {
			case <-publishing.Done():
			case m := <-s.notices:
				s.waiting.Add(-int64(len(m.payload)))
				publish(m)
			}
		}
	})
	err := serve(ctx)
	stop()
	wg.Wait()
	return err
}

// Document says how the properties of a twin changed. Like the other notices it does not block: what finds too much waiting already
// is dropped and counted.
func (s *Service) Document(namespace, name string, changed map[string]Shift) {
	s.notify(deviceTopic(namespace, name, "twin/update/document"), documentPayload{s.stamp(), changed})
}

// Delta says which desired values differ from the reported ones: delta has them by property, twin the properties.
func (s *Service) Delta(namespace, name string, twin map[string]Property, delta map[string]string) {
	s.notify(deviceTopic(namespace, name, "twin/update/delta"), deltaPayload{s.stamp(), twin, delta})
}

// Updated says that something of a device changed beside its twin.
func (s *Service) Updated(namespace, name string) {
	s.notify(deviceTopic(namespace, name, "updated"), updatedPayload{s.stamp(), map[string]string{}})
}

// Members says which devices the node has gained and lost.
func (s *Service) Members(added, removed []Info) {
	s.notify(membershipTopic(s.cfg.Node, "updated"), changedPayload{s.stamp(), devices(added), devices(removed)})
}

func (s *Service) stamp() header { return header{Timestamp: s.deps.Now().UnixMilli()} }

func (s *Service) notify(topic string, body any) {
	m := message{topic, s.answerer.encode(header{}, body)}
	if s.waiting.Add(int64(len(m.payload))) <= maxNoticeBytes {
		select {
		case s.notices <- m:
			return
		default:
		}
	}
	s.waiting.Add(-int64(len(m.payload)))
	s.metrics.dropped.WithLabelValues("notice").Inc()
}
