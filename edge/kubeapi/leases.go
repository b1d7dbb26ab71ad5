package kubeapi

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// leases keeps Leases in memory: the hub renews the cloud's while the session lives, so the kubelet's renewals cost
// neither the disk nor the link anything. They tell how fresh the kubelet is.
type leases struct {
	node  string
	clock Clock
	rows  *memory

	mu      sync.Mutex
	renewed time.Time // guarded by mu; zero before the first renewal
}

func newLeases(node string, clock Clock) *leases {
	return &leases{node: node, clock: clock, rows: newMemory(uint64(clock.Now().UnixMicro()), 0)}
}

func (l *leases) age(now time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed.IsZero() {
		return 0, false
	}
	return now.Sub(l.renewed), true
}

// apply stores a lease and notes a renewal of the node's own.
func (l *leases) apply(ctx context.Context, c object.Change) (*object.Record, error) {
	rec, err := l.rows.Apply(ctx, c)
	if err == nil && !c.Remove && c.Record.Key.Namespace == corev1.NamespaceNodeLease && c.Record.Key.Name == l.node {
		l.mu.Lock()
		l.renewed = l.clock.Now()
		l.mu.Unlock()
	}
	return rec, err
}

type leaseREST struct{ *updater }

var (
	_ rest.Creater         = &leaseREST{}
	_ rest.GracefulDeleter = &leaseREST{}
)

func (l *leaseREST) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	lease := o.(*coordinationv1.Lease)
	if err := l.prepareCreate(lease); err != nil {
		return nil, err
	}
	if len(opts.DryRun) > 0 {
		return lease, nil
	}
	rec, err := l.local(lease)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	return l.storeCreated(ctx, lease, object.Change{Record: rec}, l.apply)
}

func (l *leaseREST) changeLease(_ context.Context, rec *object.Record, old, next object.Object) (*object.Change, error) {
	if apiequality.Semantic.DeepEqual(old, next) {
		return nil, nil
	}
	changed, err := l.local(next)
	if err != nil {
		return nil, err
	}
	return &object.Change{Expect: rec.LocalRV, Record: changed}, nil
}

func (l *leaseREST) Delete(ctx context.Context, name string, _ rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return l.remove(ctx, name, opts, func(rec *object.Record) object.Change {
		return object.Change{Expect: rec.LocalRV, Record: rec, Remove: true}
	}, l.apply)
}
