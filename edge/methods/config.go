package methods

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/twin"
)

// Config parametrizes a Server. What is 0 has its default.
type Config struct {
	// Listen is a loopback host:port without TLS, none if empty.
	Listen string
	// ListenTLS is another host:port, with TLS; none if empty. CertFile and KeyFile (PEM) are read again when they change.
	ListenTLS, CertFile, KeyFile string
	// Timeout is how long a call may take that does not say so; MinTimeout and MaxTimeout bound what it says. Defaults: 30 s, 5 s
	// and 5 min.
	Timeout, MinTimeout, MaxTimeout time.Duration
	// KeyLife is how long the key of a call is remembered, from the call or the start of this process. Default 24 h.
	KeyLife time.Duration
	// MaxKeys bounds the keys that are remembered, MaxKeysOfDevice those of one device, and MaxKeyBytes what is stored with all.
	// The oldest gives way. Defaults: 4,096, 512 and 8 MiB.
	MaxKeys, MaxKeysOfDevice, MaxKeyBytes int
	// MaxCalls bounds the calls that wait for one device, MaxCallsOfMapper those for all devices of a protocol. Defaults: 16 and 64.
	MaxCalls, MaxCallsOfMapper int
	// MaxConnections bounds the connections. Half of them may wait for calls of one user. Default 512.
	MaxConnections int
	// Patience is how long a client may take to send a request. Default 10 s.
	Patience time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.Timeout, 30 * time.Second}, {&c.MinTimeout, 5 * time.Second}, {&c.MaxTimeout, 5 * time.Minute}, {&c.KeyLife, 24 * time.Hour}, {&c.Patience, 10 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	for _, n := range []struct {
		v *int
		d int
	}{{&c.MaxKeys, 4096}, {&c.MaxKeysOfDevice, 512}, {&c.MaxKeyBytes, 8 << 20}, {&c.MaxCalls, 16}, {&c.MaxCallsOfMapper, 64}, {&c.MaxConnections, 512}} {
		if *n.v <= 0 {
			*n.v = n.d
		}
	}
	return c
}

// A Device is one of this node as it is now. Nothing of it is to be changed.
type Device struct {
	// Device is the Device with the desired values that hold, Model its model, nil where there is none.
	Device     *v1beta1.Device
	Model      *v1beta1.DeviceModel
	Properties map[string]*twin.Property
	// Refused is why the device does not have what is desired of a property, as its mapper says.
	Refused map[string]string
	// State is what a mapper or client said, empty if none did; LastOnline is zero for never.
	State      string
	LastOnline time.Time
}

// A Note is what is kept for a key: see store.Note.
type Note struct {
	Bucket, Key string
	Value       []byte
}

// Errors of Devices.
var (
	// ErrUnknown: this node has no such device.
	ErrUnknown = errors.New("this node has no such device")
	// ErrInvalid: the values can never be desired.
	ErrInvalid = errors.New("invalid")
)

// Devices owns the twins of this node's devices. All of it may be called at once from many goroutines.
type Devices interface {
	// Ready is closed once the devices are known.
	Ready() <-chan struct{}
	// Names returns the namespace and name of each device, sorted.
	Names() [][2]string
	Device(namespace, name string) (Device, bool)
	// Status returns a device's conditions, and whether its mapper is there.
	Status(namespace, name string) (conditions []metav1.Condition, connected bool)
	// Desire desires values of the device of that uid, and keeps notes in the same transaction. It returns when both are on the
	// disk, or neither will be. Errors are ErrUnknown, ErrInvalid and the store's.
	Desire(ctx context.Context, namespace, name, uid, call string, values map[string]string, notes ...Note) error
}

// Memory keeps notes. Keep returns when they are on the disk; one without a value is removed.
type Memory interface {
	Keep(ctx context.Context, notes ...Note) error
	All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error
}

// Users judges who may do what. Login returns the user, "" for one without a name; busy says that the password could not be looked
// at, since too many wait.
type Users interface {
	Login(local bool, name, password string) (user string, ok, busy bool)
	MayRead(user, namespace, name string) bool
	MayDesire(user, namespace, name string) bool
}

// Deps are what a Server works with; all are required.
type Deps struct {
	Devices  Devices
	Memory   Memory
	Users    Users
	Log      *slog.Logger
	Registry prometheus.Registerer
}
