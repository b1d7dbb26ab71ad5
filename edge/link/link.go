// Package link is the edge's end of the link: it dials CloudCore, backs off, resumes by digest, commits what comes down
// and delivers the outbox.
//
// It promises that a batch is acknowledged only after its commit and a write leaves the outbox only on a final answer
// (I2), that a dead or half-open link is noticed within three pings, that a lost network is tried again within seconds
// and an answering but unwilling server is not hammered, and that it never ends the process. edge/edgecore wires it;
// edge/kubeapi calls the cloud through it.
package link

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// Incoming is one item of a batch, with its body decompressed. A delete has a cause and no body; Bad says why a body
// could not be had.
type Incoming struct {
	Key     object.Key
	Version object.Version
	Body    []byte
	Cause   object.Cause
	Bad     error
}

// Store is the edge's database as the link sees it.
type Store interface {
	Digests(ctx context.Context) (map[object.ID]object.Digest, error)
	Inventory(ctx context.Context, kind object.ID, visit func(object.Key, object.Version) error) error
	// NodeUID is the uid of the Node that the store holds, empty if none.
	NodeUID(ctx context.Context) (string, error)
	// ID names this store for ever.
	ID() string
	Epoch() string
	SetEpoch(ctx context.Context, epoch string) error
	// AssertAll queues again what the edge wrote into objects of the cloud's.
	AssertAll(ctx context.Context) error
	// ApplyBatch commits the items in order, all or none, and returns once they are committed.
	ApplyBatch(ctx context.Context, items []Incoming) error
	// MarkSynced notes that these kinds have completed a sync.
	MarkSynced(ctx context.Context, kinds []object.ID) error
	// Outbox opens a reader of the queue of writes.
	Outbox(ctx context.Context) (Outbox, error)
	// Load returns a queued write; ok is false if it is no longer there.
	Load(ctx context.Context, id uint64) (o object.Outgoing, ok bool, err error)
	// Drop removes a write whose answer is final.
	Drop(ctx context.Context, id uint64) error
	// Dropped counts messages that were dropped undelivered, by class.
	Dropped() []uint64
}

// Outbox tells what enters and leaves the queue of writes.
type Outbox interface {
	// C is sent to when there is something to take.
	C() <-chan struct{}
	// Take returns what entered and left since the last call; the first call returns the whole queue.
	Take(ctx context.Context) (added []session.Head, gone []uint64, err error)
	Close()
}

// Config parametrizes a Link.
type Config struct {
	Node    string
	Servers []Server // tried in random order
	// Protocols are those that may be used: WebSocket, QUIC, or both, which then race. None means WebSocket.
	Protocols    []transport.Protocol
	Software     string
	Features     []string
	PingInterval time.Duration
}

// Deps are what a Link works with.
type Deps struct {
	// Dial opens a stream to a server; see transport.Dial for its errors.
	Dial  func(ctx context.Context, way Way) (transport.Stream, error)
	Store Store
	// Tunnel, if not nil, serves streams that the hub opens; it owns them, and returns when one is done. DialTunnel opens
	// the second connection of a session where its own cannot carry them.
	Tunnel     func(ctx context.Context, stream net.Conn)
	DialTunnel func(ctx context.Context, way Way, session string) (*transport.TunnelConn, error)
	// Connected, if set, runs beside each session from its first moment; its context ends with the session, and the link
	// waits for its return.
	Connected func(ctx context.Context)
	// Doubted, if set, is told at a connect before which the cloud may have lost what was delivered: it went back in time, or
	// this edge was told that another machine has its name. It must not block.
	Doubted func()
	// LeaseAge is the time since the kubelet last renewed its lease; negative where it never did.
	LeaseAge func() time.Duration
	// Gate, if set, may keep the link from the cloud for a while.
	Gate Gate
	// ServerTime, if set, is told the hub's clock at each connect.
	ServerTime func(hub time.Time)
	// Codec reads and packs bodies. Nil means one of its own, of about a megabyte: many links in one process share one.
	Codec    *wire.Compressor
	Log      *slog.Logger
	Now      func() time.Time
	Registry prometheus.Registerer
}

// Link keeps one session with a CloudCore, whenever there is one to be had.
type Link struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	ways    ways
	// process names this start of the edge to hubs.
	process string
	// strangers are features of hubs that this version does not know.
	strangers session.Strangers

	// unfit counts the sessions in a row in which something had no room; see askAgain.
	unfit int
	// displaced: a hub said that somebody else has the node's session. Of the goroutine that connects.
	displaced bool

	// mu guards all below.
	mu      sync.Mutex
	current *peer // the session that is connected, nil if there is none
	status  Status
}

// Status describes the link to people.
type Status struct {
	Connected bool   `json:"connected"`
	Server    string `json:"server,omitempty"`
	// Protocol is what carries the session: websocket or quic.
	Protocol transport.Protocol `json:"protocol,omitempty"`
	Session  string             `json:"session,omitempty"`
	// Since is when the present state began.
	Since time.Time `json:"since"`
	// Synced reports that the session has caught up with the cloud.
	Synced bool `json:"synced"`
	// Problem says why there is no link, or what is wrong with it.
	Problem string `json:"problem,omitempty"`
}

// New returns a Link that does not yet dial.
func New(cfg Config, deps Deps) (*Link, error) {
	if deps.Codec == nil {
		var err error
		if deps.Codec, err = wire.NewSmallCompressor(); err != nil {
			return nil, err
		}
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	l := &Link{cfg: cfg, deps: deps, process: fmt.Sprintf("%016x", rand.Uint64()), status: Status{Since: deps.Now(), Problem: "not yet tried"}}
	l.ways = ways{servers: slices.Clone(cfg.Servers), now: time.Now, byQUIC: slices.Contains(cfg.Protocols, transport.QUIC),
		byWebSocket: len(cfg.Protocols) == 0 || slices.Contains(cfg.Protocols, transport.WebSocket)}
	l.metrics = newMetrics(deps.Registry, func() bool { return l.Status().Connected })
	return l, nil
}

// Status returns the present state.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Start keeps the link until ctx is done.
func (l *Link) Start(ctx context.Context) error {
	retry := patience{random: l.random}
	said := ""
	for ctx.Err() == nil {
		open, done := l.opened(ctx)
		if open.Err() != nil {
			done()
			continue
		}
		stream, way, err := l.connect(open)
		if open.Err() != nil {
			if stream != nil {
				_ = stream.Close()
			}
			done()
			continue
		}
		var wait time.Duration
		if err == nil {
			begun := time.Now() // deps.Now may be put right by the session's own Welcome
			end := l.serve(open, stream, way)
			err = end.err
			lasted := time.Since(begun)
			if end.welcomed {
				retry.served(lasted)
			}
			l.ways.ended(way.Protocol, end, lasted)
			wait = end.comeBack
		}
		if ctx.Err() != nil {
			done()
			l.farewell(stream)
			return nil
		}
		// A refusal repeats at every try; it is said once, and again when it changes.
		if text := err.Error(); text != said {
			l.deps.Log.Warn("link is down", "server", way.Server, "protocol", way.Protocol, "error", err)
			said = text
		}
		l.down(err)
		if wait == 0 {
			if full, elsewhere := l.ways.refused(way, err); full > 0 {
				wait = retry.full(full, elsewhere)
			} else {
				wait = retry.after(err)
			}
		}
		l.pause(open, wait)
		done()
	}
	return nil
}

// farewell waits until the goodbye of the last session is said: the process may end next.
func (l *Link) farewell(stream transport.Stream) {
	if stream == nil {
		return
	}
	select {
	case <-transport.Gone(stream):
	case <-time.After(3 * time.Second):
	}
}

func (l *Link) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *Link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Connected {
		l.status.Since = l.deps.Now()
	}
	l.status = Status{Since: l.status.Since, Problem: err.Error()}
}
