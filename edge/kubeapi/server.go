package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/tether-edge/tether/common/object"
)

// Store is the edge's store as the API needs it. Every method returns at once or as fast as the disk does; none waits
// for the network.
type Store interface {
	// Get returns the record of key. ok is false if there is none or if it is a tombstone; a tombstone is still
	// returned, so that callers can tell an undelivered deletion from an object that never was.
	Get(ctx context.Context, key object.Key) (rec *object.Record, ok bool, err error)
	// List is a consistent snapshot: the records of a kind without tombstones, in key order, and the store's LocalRV
	// at that moment. Namespace "" means all.
	List(ctx context.Context, kind object.ID, namespace string) ([]*object.Record, uint64, error)
	// Watch delivers the events of a kind with a LocalRV above since, in order and without gaps. It returns an error
	// that is object.ErrExpired if since is older than what the store still has, or newer than anything it has given
	// out. The channel closes when the watcher is too slow or ctx ends.
	Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error)
	// Apply makes one atomic change and returns the stored record with its LocalRV (nil if the change has none). The
	// error is object.ErrConflict if Expect does not match.
	Apply(ctx context.Context, c object.Change) (*object.Record, error)
	// Synced says whether the kind has completed a sync with the cloud since the store was made.
	Synced(kind object.ID) bool
	// LoadToken returns a cached answer to a token request.
	LoadToken(ctx context.Context, key string) (body []byte, expires time.Time, ok bool, err error)
	// TokenKeys lists the cached answers, the one that expires first at first.
	TokenKeys(ctx context.Context) ([]string, error)
	// SaveToken caches an answer until the pod is gone.
	SaveToken(ctx context.Context, key, podUID string, body []byte, expires time.Time) error
}

// Cloud asks the API server through the link.
type Cloud interface {
	// Call waits for the answer at most until ctx ends. It returns an error, at once, if there is no link.
	Call(ctx context.Context, c object.Call) (object.Reply, error)
}

// Clock tells the time. Its readings carry a monotonic part where the platform's do.
type Clock interface {
	Now() time.Time
}

// Config says whom the API serves.
type Config struct {
	// NodeName is the node that this edge is.
	NodeName string
	// AdminGroup is the organization in the certificates of local operators, beside system:masters. Empty means none.
	AdminGroup string
	// Version is the Kubernetes version that /version reports, as "v1.36.3".
	Version string
	// CallTimeout bounds the wait for the cloud's answer; 0 means 10 s.
	CallTimeout time.Duration
	// BookmarkPeriod is the time between bookmarks of a watch that asked for them; 0 means one minute.
	BookmarkPeriod time.Duration
	// DeviceWait is how long after the kubelet's start a pod without a sandbox is withheld from it while its extended
	// resources are not allocatable; 0 means two minutes.
	DeviceWait time.Duration
}

// Deps are what a Server works with. Kubelet, Devices, Registerer and View may be nil.
type Deps struct {
	Store Store
	Cloud Cloud
	Log   *slog.Logger
	Clock Clock
	// Kubelet reaches this node's kubelet server, whatever host a request names. Logs, exec, port-forward and the rest go
	// there, for those who come over Serve; without it they are not found.
	Kubelet http.RoundTripper
	// Devices tells what is in no stored object: the twins. Without it there are no DeviceStatuses.
	Devices Devices
	// Registerer takes the server's metrics.
	Registerer prometheus.Registerer
	// View changes what clients see of an object and never what is stored. It may change its argument.
	View func(object.Object) object.Object
}

// Server is the local Kubernetes API. It has no goroutines of its own beside those of requests in progress.
type Server struct {
	cfg    Config
	deps   Deps
	node   user.Info
	codecs *codecs
	events *memory
	leases *leases
	// late are pods whose devices come later than the kubelet.
	late    *lateDevices
	routes  map[string]*endpoint
	handler http.Handler // for the kubelet
	local   http.Handler // for those who come over loopback
	metrics *metrics
	// What pods and nodes are, for those who ask for something that the kubelet serves.
	podReader, nodeReader *resource
	// descriptions are of the API, by path, for kubectl.
	descriptions map[string]http.Handler
}

const (
	defaultCallTimeout    = 10 * time.Second
	defaultBookmarkPeriod = time.Minute
)

// New returns a server, or an error that lists what is missing from cfg and deps.
func New(cfg Config, deps Deps) (*Server, error) {
	var faults []error
	missing := func(absent bool, what string) {
		if absent {
			faults = append(faults, fmt.Errorf("%s is missing", what))
		}
	}
	missing(cfg.NodeName == "", "Config.NodeName")
	missing(deps.Store == nil, "Deps.Store")
	missing(deps.Cloud == nil, "Deps.Cloud")
	missing(deps.Log == nil, "Deps.Log")
	missing(deps.Clock == nil, "Deps.Clock")
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("kubeapi: %w", err)
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = defaultCallTimeout
	}
	if cfg.BookmarkPeriod == 0 {
		cfg.BookmarkPeriod = defaultBookmarkPeriod
	}
	if cfg.DeviceWait == 0 {
		cfg.DeviceWait = defaultDeviceWait
	}
	if deps.View == nil {
		deps.View = func(o object.Object) object.Object { return o }
	}
	c, err := newCodecs()
	if err != nil {
		return nil, fmt.Errorf("kubeapi: %w", err)
	}
	s := &Server{
		cfg: cfg, deps: deps, codecs: c,
		node: &user.DefaultInfo{
			Name: "system:node:" + cfg.NodeName, Groups: []string{user.NodesGroup, user.AllAuthenticated},
		},
		// Versions of rows in memory start at the clock, so that a watch from before a restart is answered 410.
		events: newMemory(uint64(deps.Clock.Now().UnixMicro()), eventCapacity),
		leases: newLeases(cfg.NodeName, deps.Clock),
	}
	s.late = newLateDevices(s)
	s.metrics, err = newMetrics(deps.Registerer, s.late.count)
	if err != nil {
		return nil, fmt.Errorf("kubeapi: %w", err)
	}
	if err := s.install(); err != nil {
		return nil, fmt.Errorf("kubeapi: %w", err)
	}
	return s, nil
}

// LeaseAge returns the time since the kubelet last renewed its lease. ok is false if it has not done so since this
// process started.
func (s *Server) LeaseAge(now time.Time) (age time.Duration, ok bool) { return s.leases.age(now) }
