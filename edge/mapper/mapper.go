package mapper

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"k8s.io/client-go/util/workqueue"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/device"
)

// workers is how many calls a mapper gets at a time, and so how many devices that it is slow with hold up no other.
const workers = 8

// stuck is how many calls in a row a mapper leaves unanswered before it counts as away.
const stuck = 3

// A mapper is one registration: the connection to the mapper's socket and what the mapper was told through it. A new
// registration of the protocol is a new mapper.
type mapper struct {
	s *Server
	record
	log      *slog.Logger
	conn     *grpc.ClientConn
	api      dmi.DeviceMapperServiceClient
	queue    workqueue.TypedDelayingInterface[string] // of devices, and of models with a prefix
	stopping chan struct{}
	stop     func()
	done     chan struct{}
	unsaved  chan struct{} // holds one while a save is due
	marks    chan struct{} // holds one while a save is due that may wait
	saving   chan struct{} // holds one while the record is saved, so that the last one is the newest
	saved    chan struct{} // closed once the record is saved
	dials    atomic.Int64  // connections made

	saying sync.Mutex // held while Connected is called, so that the last call is true

	mu      sync.Mutex // guards what follows
	devices map[string]*known
	models  map[string]*knownModel
	retries map[string]*backoff.Backoff
	told    map[string]string // what Deps.Told heard last of a device: the error, "" for none
	marked  map[string]bool   // of which devices the saved record may have a mark
	ready   bool              // the connection is there
	seen    int64             // dials when it became so
	life    int64             // counts connections behind which the mapper may know nothing
	deaf    bool              // it left a probe unanswered
	missed  int               // calls that were left unanswered, in a row
	stale   bool              // the record that is saved lacks something
	said    bool              // Connected was called, with:
	up      bool
	since   time.Time
	begun   time.Time
}

// known is a device that the mapper may know. It is not changed, but replaced by the worker that has the device.
type known struct {
	life   int64  // of the connection on which the last call succeeded; unsure if it did not
	digest digest // of what it was told last, if that succeeded
	mark   string // likewise; see markOf
	model  string
	born   uint64 // as in Entry; 0 where an earlier process told
}

// unsure is the life of what nobody knows whether the mapper knows it.
const unsure = -1

type knownModel struct {
	calling sync.Mutex // held while the mapper is told of it
	users   int        // who hold the pointer
	told    bool       // the mapper may know it
	life    int64      // as in known
	digest  digest
}

func newMapper(s *Server, r record) (*mapper, error) {
	r.Devices, r.Models = nil, nil
	m := &mapper{s: s, record: r, log: s.deps.Log.With("protocol", r.Protocol), begun: s.deps.Now(), since: s.deps.Now(),
		devices: map[string]*known{}, models: map[string]*knownModel{}, retries: map[string]*backoff.Backoff{}, told: map[string]string{}, marked: map[string]bool{},
		stopping: make(chan struct{}), done: make(chan struct{}), unsaved: make(chan struct{}, 1), marks: make(chan struct{}, 1), saving: make(chan struct{}, 1), saved: make(chan struct{})}
	m.stop = sync.OnceFunc(func() { close(m.stopping) })
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", r.Address)
		if err == nil {
			m.dials.Add(1)
		}
		return c, err
	}
	var err error
	m.conn, err = grpc.NewClient("passthrough:///mapper", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(s.cfg.MaxMessage)),
		grpc.WithMaxHeaderListSize(16<<10), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: s.cfg.CallTimeout,
			Backoff: grpcbackoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}}))
	if err != nil {
		return nil, err
	}
	m.api = dmi.NewDeviceMapperServiceClient(m.conn)
	m.queue = workqueue.NewTypedDelayingQueue[string]()
	return m, nil
}

// discard ends a mapper that was never run.
func (m *mapper) discard() {
	m.stop()
	m.queue.ShutDown()
	_ = m.conn.Close() // it was never used
	close(m.done)
}

// run works until the mapper is stopped or ctx ends. It begins when former, which may be nil, has ended.
func (m *mapper) run(server context.Context, former *mapper) {
	ctx, cancel := context.WithCancel(server)
	defer cancel()
	if former != nil {
		<-former.done
		m.follow(ctx, former)
	}
	m.changed()
	var all sync.WaitGroup
	all.Go(func() { m.saver(ctx) })
	all.Go(func() { m.watch(ctx) })
	for range workers {
		all.Go(func() { m.work(ctx) })
	}
	select {
	case <-m.stopping:
	case <-ctx.Done():
	}
	cancel()
	m.queue.ShutDown()
	if err := m.conn.Close(); err != nil {
		m.log.Debug("close the connection to a mapper", "error", err)
	}
	all.Wait()
	if server.Err() != nil && m.unwritten() {
		last, cancel := context.WithTimeout(context.WithoutCancel(server), time.Second)
		defer cancel()
		if err := m.save(last); err != nil {
			m.log.Warn("cannot remember what a mapper was told", "error", err)
		}
	}
	close(m.done)
}

// follow takes over what was said of the former mapper: one that restarts at once was never away.
func (m *mapper) follow(ctx context.Context, former *mapper) {
	if former.Protocol != m.Protocol {
		if err := m.s.deps.Memory.Delete(ctx, bucket, former.Protocol); err != nil {
			m.log.Warn("cannot forget a mapper that gave way", "former", former.Protocol, "error", err)
		}
		return
	}
	former.mu.Lock()
	said, up, since, marked := former.said, former.up, former.since, former.marked
	former.mu.Unlock()
	m.mu.Lock()
	m.said, m.up, m.since = said, up, since
	maps.Copy(m.marked, marked) // its record is the saved one until there is another
	m.mu.Unlock()
}

// info is what Registered shows.
func (m *mapper) info() Mapper {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Mapper{Protocol: m.Protocol, Name: m.Name, Version: m.Version, Address: m.Address, Connected: m.up, Since: m.since, Devices: len(m.devices)}
}

// watch follows the connection, and asks a mapper that nothing is heard of whether it is there: a process that is stopped
// keeps its connections.
func (m *mapper) watch(ctx context.Context) {
	for ctx.Err() == nil {
		state := m.conn.GetState()
		if state == connectivity.Idle {
			m.conn.Connect()
		}
		if state == connectivity.Ready {
			m.reached()
		} else {
			m.lost()
		}
		wait, cancel := context.WithTimeout(ctx, m.s.cfg.ProbeInterval)
		changed := m.conn.WaitForStateChange(wait, state)
		cancel()
		if !changed && state == connectivity.Ready {
			m.probe(ctx)
		}
	}
}

// probe asks for something that mappers do not have: any answer shows that the process runs.
func (m *mapper) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, m.s.cfg.CallTimeout)
	defer cancel()
	err := m.conn.Invoke(ctx, "/grpc.health.v1.Health/Check", &emptypb.Empty{}, &emptypb.Empty{})
	code := status.Code(err)
	if code == codes.Canceled || code == codes.Unavailable {
		return // the connection's state says the rest
	}
	m.mu.Lock()
	m.deaf = code == codes.DeadlineExceeded
	if !m.deaf && len(m.retries) == 0 {
		m.missed = 0 // there is no call left that could show it
	}
	m.mu.Unlock()
	m.say()
}

// reached says that the connection is there. Behind a new one may be a new process: all that it was told is told again, but for
// what its registration was just answered with.
func (m *mapper) reached() {
	m.mu.Lock()
	dials := m.dials.Load()
	if m.ready && m.seen == dials {
		m.mu.Unlock()
		m.say()
		return
	}
	if m.seen != 0 {
		m.life++
	}
	m.ready, m.seen, m.deaf, m.missed = true, dials, false, 0
	m.mu.Unlock()
	m.say()
	m.all()
}

func (m *mapper) lost() {
	m.mu.Lock()
	m.ready = false
	m.mu.Unlock()
	m.say()
}

// all puts everything into the queue that the mapper should know or may know.
func (m *mapper) all() {
	for _, e := range m.s.deps.Devices.OfProtocol(m.Protocol) {
		if e.Device != nil {
			m.queue.Add(device.ID(e.Device.Namespace, e.Device.Name))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.devices {
		m.queue.Add(id)
	}
	for id := range m.models {
		m.queue.Add(modelKey + id)
	}
}

// say calls Connected where that changed. A mapper that registered just now may not listen yet, and one that is remembered
// is there in a moment.
func (m *mapper) say() {
	m.saying.Lock()
	defer m.saying.Unlock()
	select {
	case <-m.stopping:
		return // its own end is no news: another takes its place, or the edge stops
	default:
	}
	now := m.s.deps.Now()
	m.mu.Lock()
	up := m.ready && !m.deaf && m.missed < stuck
	quiet := m.said && up == m.up || !up && m.seen == 0 && now.Sub(m.begun) < m.s.cfg.CallTimeout
	if !quiet {
		m.said, m.up, m.since = true, up, now
	}
	m.mu.Unlock()
	if quiet {
		return
	}
	value := 0.0
	if up {
		value = 1
	}
	m.s.metrics.connected.WithLabelValues(m.Protocol).Set(value)
	m.log.Info("mapper's connection", "connected", up)
	m.s.deps.Connected(m.Protocol, up, now)
}

// changed notes that the record is to be saved.
func (m *mapper) changed() {
	m.mu.Lock()
	n := len(m.devices)
	m.stale = true
	m.mu.Unlock()
	m.s.metrics.devices.WithLabelValues(m.Protocol).Set(float64(n))
	select {
	case m.unsaved <- struct{}{}:
	default:
	}
}

// markedAnew notes that the record has new marks only. They wait: the record is written whole, and one that is missing or old costs a mapper
// that it is told again what it knows.
func (m *mapper) markedAnew() {
	m.mu.Lock()
	m.stale = true
	m.mu.Unlock()
	select {
	case m.marks <- struct{}{}:
	default:
	}
}

// saveEvery spaces out saves: five hundred devices that are told in a row cost a few.
const saveEvery = 500 * time.Millisecond

func (m *mapper) saver(ctx context.Context) {
	first := sync.OnceFunc(func() { close(m.saved) })
	retry := backoff.New(backoff.Config{Base: time.Second, Max: time.Minute})
	var later <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.marks:
			if later == nil {
				later = time.After(m.s.cfg.MarksEvery)
			}
			continue
		case <-m.unsaved:
		case <-later:
		}
		later = nil
		wait := saveEvery
		if err := m.save(ctx); err != nil {
			m.changed()
			if ctx.Err() != nil {
				return
			}
			m.log.Warn("cannot remember what a mapper was told; trying again", "error", err)
			wait += retry.Next()
		} else {
			first()
			retry.Reset()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// save writes the record. The former mapper of the protocol has ended: the newest is last.
func (m *mapper) save(ctx context.Context) error {
	select {
	case m.saving <- struct{}{}:
		defer func() { <-m.saving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.saveHeld(ctx)
}

// saveHeld is save for who holds saving.
func (m *mapper) saveHeld(ctx context.Context) error {
	r, marked := m.record, map[string]bool{}
	m.mu.Lock()
	m.stale = false
	r.Devices = make(map[string]string, len(m.devices))
	for id, d := range m.devices {
		r.Devices[id] = d.model
		if d.mark != "" {
			r.Devices[id] += " " + d.mark
			marked[id] = true
			m.marked[id] = true // from here on it may be on the disk
		}
	}
	for id, model := range m.models {
		if model.told {
			r.Models = append(r.Models, id)
		}
	}
	m.mu.Unlock()
	slices.Sort(r.Models)
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = m.s.deps.Memory.Put(ctx, bucket, m.Protocol, value)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.stale = true
		return err
	}
	m.marked = marked
	return nil
}

// unmark takes the mark of a device out of the saved record, before the mapper is told something else: an edge that ended then would take the
// mapper for one that has the former state, should that come back. A disk that does not take it costs no device its change.
func (m *mapper) unmark(ctx context.Context, id string) {
	if !m.isMarked(id) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	select {
	case m.saving <- struct{}{}:
		defer func() { <-m.saving }()
	case <-ctx.Done():
		m.changed()
		return
	}
	if m.isMarked(id) && m.saveHeld(ctx) != nil {
		m.changed() // the saver tries again, and says why it cannot
	}
}

func (m *mapper) isMarked(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.marked[id]
}

// unwritten says that the record that is saved lacks something.
func (m *mapper) unwritten() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stale
}

// answered notes whether a call was, and returns errAway where the connection is not there.
func (m *mapper) answered(err error) error {
	switch code := status.Code(err); code {
	case codes.Canceled:
		return err
	case codes.Unavailable:
		if m.conn.GetState() != connectivity.Ready {
			return errors.Join(errAway, err)
		}
	case codes.DeadlineExceeded:
		m.mu.Lock()
		m.missed++
		m.mu.Unlock()
		m.say()
		return err
	}
	m.mu.Lock()
	quiet := m.missed == 0 && !m.deaf
	m.missed, m.deaf = 0, false
	m.mu.Unlock()
	if !quiet {
		m.say()
	}
	return err
}
