package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Config holds the limits of an Applier. The zero value of a field means its default.
type Config struct {
	// Impersonation is how requests are made in a node's name. Default Auto.
	Impersonation Impersonation
	// Timeout bounds one request to the API server. Default 15 s.
	Timeout time.Duration
	// Wait is how long a write waits for its turn before the edge is asked to send it again later. Default 1 min.
	Wait time.Duration
	// Requests is how many requests run at once, for all nodes together: half of them for what nodes and pods are, a quarter for
	// Events, and a quarter for calls. Default 128.
	Requests int
	// RequestsPerNode is how many of each sort one node may hold. Default 8.
	RequestsPerNode int
	// Conflicts is how often a write that met a resourceVersion conflict is computed again before the edge is asked
	// to send it again. Default 4.
	Conflicts int
	// GiveUp is how long an event that is answered 403 is tried, counted from the first try that this Applier saw.
	// Default 10 minutes.
	GiveUp time.Duration
}

func (c Config) withDefaults() Config {
	if c.Impersonation == "" {
		c.Impersonation = Auto
	}
	if c.Timeout <= 0 {
		c.Timeout = 15 * time.Second
	}
	if c.Wait <= 0 {
		c.Wait = time.Minute
	}
	if c.Requests <= 0 {
		c.Requests = 128
	}
	if c.RequestsPerNode <= 0 {
		c.RequestsPerNode = 8
	}
	if c.Conflicts <= 0 {
		c.Conflicts = 4
	}
	if c.GiveUp <= 0 {
		c.GiveUp = 10 * time.Minute
	}
	return c
}

// Objects is the cluster as the shared cache knows it. It may be behind the API server.
type Objects interface {
	// Object returns an object that the caller owns. ok is false where the cache has none. It does not block.
	Object(key object.Key) (o object.Object, ok bool)
}

// Clock tells the time.
type Clock interface {
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// Compressor opens bodies as they come over the link. *wire.Compressor is one.
type Compressor interface {
	Open(body []byte, how wire.Compression) ([]byte, error)
}

// Deps are what an Applier uses. All but Present, Await, Devices and Clock are required; a nil Clock is SystemClock.
type Deps struct {
	// RESTConfig reaches the API server as CloudCore. Its rate limits are not used.
	RESTConfig *rest.Config
	Objects    Objects
	Compressor Compressor
	// Present, if not nil, changes a Node's overlay into what the cluster is to see. With an error it stays as it is. It does not block: Await, if
	// not nil, waits for what it needs, for some seconds at most.
	Present func(node string, o *object.Overlay) error
	Await   func(ctx context.Context, node string) (there bool)
	// Devices takes the statuses of devices; nil: they are refused. It may block until ctx ends, and never returns nil.
	Devices    func(ctx context.Context, node string, key object.Key, uid string, body []byte) *wire.Result
	Log        *slog.Logger
	Clock      Clock
	Registerer prometheus.Registerer
}

// An Applier applies writes. Make it with New. All methods are safe for concurrent use.
type Applier struct {
	cfg    Config
	deps   Deps
	client *client
	// states, events and calls are what waits for the API server, by what it is.
	states, events, calls *lane

	m      *metrics
	recent *recent
	denied *denials

	// probing lets one Probe run at a time.
	probing sync.Mutex
	// modeMu guards mode.
	modeMu sync.RWMutex
	// mode is Constrained or Legacy, or Auto until Probe has decided.
	mode Impersonation
}

// New returns an Applier. It makes no request. It fails on a configuration that cannot reach any API server.
func New(cfg Config, deps Deps) (*Applier, error) {
	cfg = cfg.withDefaults()
	if deps.Clock == nil {
		deps.Clock = SystemClock{}
	}
	switch cfg.Impersonation {
	case Auto, Constrained, Legacy:
	default:
		return nil, fmt.Errorf("upstream: impersonation %q: expected %s, %s or %s", cfg.Impersonation, Auto, Constrained, Legacy)
	}
	m := newMetrics(deps.Registerer)
	c, err := newClient(cfg, deps.RESTConfig, m)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	return &Applier{
		cfg: cfg, deps: deps, client: c, m: m, mode: cfg.Impersonation,
		states: newLane(cfg.Requests/2, cfg.RequestsPerNode, m.waiting.WithLabelValues("states")),
		events: newLane(cfg.Requests/4, cfg.RequestsPerNode, m.waiting.WithLabelValues("events")),
		calls:  newLane(cfg.Requests/4, cfg.RequestsPerNode, m.waiting.WithLabelValues("calls")),
		recent: newRecent(deps.Clock), denied: newDenials(deps.Clock, cfg.GiveUp),
	}, nil
}

// Apply makes one write for node and says how it ended. It blocks until the API server has answered or the time of
// its requests is over, at most Config.Wait and a few times Config.Timeout, and returns early with a Result that is not final when ctx
// ends. It never returns nil.
func (a *Applier) Apply(ctx context.Context, node string, w *wire.Write) (r *wire.Result) {
	op := opName(w.GetOp())
	start := a.deps.Clock.Now()
	defer func() {
		if p := recover(); p != nil {
			a.deps.Log.Error("applying a write panicked: this is a defect of cloudcore; the write stays with the edge",
				"node", node, "key", keyOf(w).String(), "op", op, "panic", p, "stack", string(debug.Stack()))
			a.m.panics.Inc()
			r = &wire.Result{Code: http.StatusInternalServerError, Reason: "InternalError",
				Message: "cloudcore failed on this write; see its log", RetryAfterMs: time.Minute.Milliseconds()}
		}
		r.Id = w.GetId()
		a.m.writes.WithLabelValues(op, codeLabel(int(r.Code)), fmt.Sprint(r.Final)).Inc()
		a.m.seconds.WithLabelValues(op).Observe(a.deps.Clock.Now().Sub(start).Seconds())
	}()
	if object.ID(w.GetKind()) == object.DeviceStatuses {
		return a.deviceStatus(ctx, node, w) // it has its turn there, and takes none of what the node lives by
	}
	turn, awaited := a.states, false
	switch kind := object.ID(w.GetKind()); {
	case kind == object.Events:
		turn = a.events
	case kind == object.Nodes && a.deps.Await != nil:
		awaited = a.deps.Await(ctx, node) // and not with a turn that others could have
	}
	wait, stop := context.WithTimeout(ctx, a.cfg.Wait)
	leave, err := turn.enter(wait, node)
	stop()
	switch {
	case ctx.Err() != nil && err != nil:
		return a.result(nil, answer{err: fmt.Errorf("wait for earlier writes to the API server: %w", err)})
	case err != nil:
		behind := fault(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "waited %s for earlier writes to the API server", a.cfg.Wait)
		behind.retryAfter = retryBehind + rand.N(2*retryBehind)
		return a.result(nil, behind)
	}
	defer leave()
	job, err := a.parse(node, w)
	if err != nil {
		a.m.malformed.Inc()
		a.deps.Log.Warn("an edge sent a write that cannot be applied: it is dropped", "node", node, "key", keyOf(w).String(), "op", op, "err", err)
		return &wire.Result{Code: http.StatusBadRequest, Final: true, Reason: "BadRequest", Message: err.Error()}
	}
	job.awaited = awaited
	return a.result(job, a.run(ctx, job))
}

// A job is a Write that has been checked.
type job struct {
	node  string
	key   object.Key
	kind  object.Kind
	write *wire.Write
	body  []byte
	// awaited: what Present needs was there before the write had its turn.
	awaited bool
	// overlay and object are the parsed body, by operation.
	overlay *object.Overlay
	object  object.Object
}

func (a *Applier) run(ctx context.Context, j *job) answer {
	switch j.write.Op {
	case wire.Op_OP_OVERLAY:
		return a.overlay(ctx, j)
	case wire.Op_OP_DELETE:
		return a.delete(ctx, j)
	case wire.Op_OP_CREATE:
		return a.create(ctx, j)
	default: // parse lets nothing else pass
		return a.put(ctx, j)
	}
}

// parse checks everything about a write that does not need the API server. Its error is for the edge's log.
func (a *Applier) parse(node string, w *wire.Write) (*job, error) {
	if node == "" {
		return nil, errors.New("the session has no node name")
	}
	key := keyOf(w)
	if err := key.Validate(); err != nil {
		return nil, err
	}
	if err := checkSegments(key); err != nil {
		return nil, err
	}
	kind, ok := object.Lookup(key.Kind)
	if !ok {
		return nil, fmt.Errorf("kind %q is not known to this cloudcore", key.Kind)
	}
	if kind.Namespaced != (key.Namespace != "") {
		return nil, fmt.Errorf("%s: found namespace %q, expected one for namespaced kinds and none for others", key, key.Namespace)
	}
	if len(w.Uid) > object.MaxUID {
		return nil, fmt.Errorf("%s: uid of %d bytes, limit %d", key, len(w.Uid), object.MaxUID)
	}
	body, err := a.deps.Compressor.Open(w.Body, w.Compression)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	j := &job{node: node, key: key, kind: kind, write: w, body: body}
	switch w.Op {
	case wire.Op_OP_OVERLAY:
		return j, j.parseOverlay()
	case wire.Op_OP_DELETE:
		return j, j.parseDelete()
	case wire.Op_OP_CREATE:
		return j, j.parseCreate()
	case wire.Op_OP_PUT:
		return j, j.parsePut()
	}
	return nil, fmt.Errorf("%s: operation %d is not known to this cloudcore", key, w.Op)
}

// checkSegments refuses names that would change the path of a request.
func checkSegments(key object.Key) error {
	for _, s := range []string{key.Namespace, key.Name} {
		if faults := path.IsValidPathSegmentName(s); s != "" && len(faults) > 0 {
			return fmt.Errorf("%s: name %q %s", key, s, strings.Join(faults, ", "))
		}
	}
	return nil
}

// pause waits a moment before a try is repeated, so that two writers of one object do not stay in step.
func pause(ctx context.Context, try int) {
	t := time.NewTimer(time.Duration(rand.Int64N(int64(20*time.Millisecond) << min(try, 4))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func keyOf(w *wire.Write) object.Key {
	return object.Key{Kind: object.ID(w.GetKind()), Namespace: w.GetNamespace(), Name: w.GetName()}
}

func opName(op wire.Op) string {
	switch op {
	case wire.Op_OP_OVERLAY:
		return "overlay"
	case wire.Op_OP_DELETE:
		return "delete"
	case wire.Op_OP_CREATE:
		return "create"
	case wire.Op_OP_PUT:
		return "put"
	}
	return "unknown"
}
