package device

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// Config holds the rates of a Controller, each of this CloudCore alone. The zero value of a field means its default.
type Config struct {
	// DeviceRate is how many writes a second one device may cause for long, DeviceBurst how many at once. Default 5 and 5.
	DeviceRate  float64
	DeviceBurst int
	// ClusterRate and ClusterBurst bound the writes for all devices together. Judgements alone, without a report, get half of
	// each, so that a model which changes leaves room for reports. Default 200 and 400.
	ClusterRate  float64
	ClusterBurst int
	// Workers is how many devices are worked on at once. Default 16.
	Workers int
	// MaxWait is how long a report waits for its answer before its edge is told to ask again; it is written in its turn all the
	// same. Default 20 s.
	MaxWait time.Duration
}

func (c Config) withDefaults() Config {
	if c.DeviceRate <= 0 {
		c.DeviceRate = 5
	}
	if c.DeviceBurst <= 0 {
		c.DeviceBurst = 5
	}
	if c.ClusterRate <= 0 {
		c.ClusterRate = 200
	}
	if c.ClusterBurst <= 0 {
		c.ClusterBurst = 400
	}
	if c.Workers <= 0 {
		c.Workers = 16
	}
	if c.MaxWait <= 0 {
		c.MaxWait = 20 * time.Second
	}
	return c
}

// Cache is the cluster as the shared cache knows it. It may be behind the API server.
type Cache interface {
	// Object returns an object that the caller owns: of the kinds above a *v1beta1.Device and so on. ok is false where the
	// cache has none. It does not block.
	Object(key object.Key) (o object.Object, ok bool)
	// WaitSynced blocks until every kind's first list is in, or returns ctx's error.
	WaitSynced(ctx context.Context) error
	// Follow calls notify with the key of every object of the kinds that the cache holds, and then of each that is
	// added, changed or deleted, until cancel is called.
	Follow(kinds []object.ID, notify func([]object.Key)) (cancel func())
}

// API is the API server, asked as CloudCore. Its methods block for one request at most; errors are those of
// k8s.io/apimachinery/pkg/api/errors where the server answered. NewAPI makes one.
type API interface {
	Device(ctx context.Context, key types.NamespacedName) (*v1beta1.Device, error)
	Status(ctx context.Context, key types.NamespacedName) (*v1beta1.DeviceStatus, error)
	Create(ctx context.Context, s *v1beta1.DeviceStatus) (*v1beta1.DeviceStatus, error)
	// Patch applies a JSON merge patch (RFC 7386) to a DeviceStatus.
	Patch(ctx context.Context, key types.NamespacedName, patch []byte) (*v1beta1.DeviceStatus, error)
	// Delete deletes the DeviceStatus of that uid.
	Delete(ctx context.Context, key types.NamespacedName, uid types.UID) error
	// Happened records an Event.
	Happened(ctx context.Context, e *corev1.Event) error
}

// Deps are what a Controller works with. All but Now are required; a nil Now is time.Now.
type Deps struct {
	API   API
	Cache Cache
	// IsEdge tells the Nodes of edges.
	IsEdge func(*corev1.Node) bool
	// Holds reports whether the node has its session with this CloudCore. It does not block.
	Holds      func(node string) bool
	Log        *slog.Logger
	Now        func() time.Time
	Registerer prometheus.Registerer
}
