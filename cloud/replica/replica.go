package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// Label marks the Leases of CloudCores, in their own namespace.
	Label = "tether.io/cloudcore"
	// AnnotationSessions on such a Lease is how many sessions the CloudCore has, a decimal number.
	AnnotationSessions = "tether.io/sessions"
	// AnnotationMaxSessions is how many it takes: edges are not moved to one that is full.
	AnnotationMaxSessions = "tether.io/max-sessions"
)

// writeTimeout bounds a write of the Lease.
const writeTimeout = 5 * time.Second

// Config parametrizes Replicas.
type Config struct {
	// Namespace is where the Leases are, and Address where this CloudCore is, for people.
	Namespace, Address string
	// MaxSessions is how many sessions this CloudCore takes.
	MaxSessions int
	// Move is whether edges are moved at all; without it the CloudCores still know each other.
	Move bool
}

// Deps are what Replicas work with.
type Deps struct {
	Client kubernetes.Interface
	// Sessions is how many sessions there are here. Move sends up to n of the edges away, one by one over about that time, and
	// returns how many when that is done, or ctx is.
	Sessions func() int
	Move     func(ctx context.Context, n int, over time.Duration) (sent int)
	// Now is the clock of Leases and of what is late; nil is the machine's.
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Replicas does what the package says. Make it with New.
type Replicas struct {
	cfg  Config
	deps Deps
	// name is of this process alone: two may have one address, behind a load balancer.
	name     string
	failures prometheus.Counter

	balance balance // of the goroutine of Start

	mu    sync.Mutex // guards peers
	peers peers
}

// New returns Replicas that know of nobody yet.
func New(cfg Config, deps Deps) *Replicas {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	r := &Replicas{cfg: cfg, deps: deps, name: fmt.Sprintf("cloudcore-%08x", rand.Uint32()), peers: peers{},
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "tether_replica_failures_total", Help: "Writes of this CloudCore's own Lease that failed."})}
	deps.Registerer.MustRegister(r.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tether_replicas",
		Help: "CloudCores that run, as this one sees it, itself included."}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		n, _, _ := r.peers.state(deps.Now())
		return float64(n + 1)
	}))
	return r
}

// Start runs until ctx is done, and then takes this CloudCore's Lease away. It returns nil.
func (r *Replicas) Start(ctx context.Context) error {
	watched := make(chan struct{})
	go func() { defer close(watched); r.watch(ctx) }()
	defer func() { <-watched }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for ctx.Err() == nil {
		err := r.renew(ctx)
		switch {
		case err == nil:
			said = ""
			r.tidy(ctx)
			if r.cfg.Move {
				r.even(ctx)
			}
		case ctx.Err() == nil:
			r.failures.Inc()
			if err.Error() != said {
				said = err.Error()
				r.deps.Log.Warn("this CloudCore cannot tell the others of itself: edges are not spread anew", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	r.leave(context.WithoutCancel(ctx))
	return nil
}

// even sends edges away where there are more than an even share.
func (r *Replicas) even(ctx context.Context) {
	own := r.deps.Sessions()
	r.mu.Lock()
	excess, useless := r.balance.look(r.peers, load{own, r.cfg.MaxSessions}, r.deps.Now())
	r.mu.Unlock()
	if useless {
		r.deps.Log.Warn("edges that were sent away do not come to the CloudCores that have fewer: they do not know them, or what is between sends them elsewhere; none is sent away for an hour or more",
			"sessions", own)
	}
	sent := 0
	if excess > 0 {
		// Who is late with its own Lease is taken for gone.
		moving, stop := context.WithTimeout(ctx, every)
		sent = r.deps.Move(moving, excess, every*3/4)
		if stop(); sent > 0 {
			r.deps.Log.Info("this CloudCore has more than its share of the edges: some were sent away", "sessions", own, "edges", sent)
		}
	}
	r.balance.moved(sent)
}

// watch follows the others' Leases until ctx is done.
func (r *Replicas) watch(ctx context.Context) {
	leases := r.deps.Client.CoordinationV1().Leases(r.cfg.Namespace)
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = Label
				return leases.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = Label
				return leases.Watch(ctx, o)
			},
		}, r.deps.Client),
		ObjectType: &coordinationv1.Lease{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    r.saw,
			UpdateFunc: func(_, now any) { r.saw(now) },
			DeleteFunc: r.gone,
		},
	})
	controller.RunWithContext(ctx)
}

func (r *Replicas) saw(o any) {
	l, ok := o.(*coordinationv1.Lease)
	if !ok || l.Name == r.name || l.Spec.RenewTime == nil {
		return
	}
	sessions, err := strconv.Atoi(l.Annotations[AnnotationSessions])
	if err != nil || sessions < 0 {
		return // somebody else's word
	}
	most, err := strconv.Atoi(l.Annotations[AnnotationMaxSessions])
	if err != nil || most < 0 {
		most = 0 // a CloudCore of a former version does not say
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers.saw(l.Name, l.ResourceVersion, l.Spec.RenewTime.Time, load{sessions, most}, r.deps.Now())
}

func (r *Replicas) gone(o any) {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	if l, ok := o.(*coordinationv1.Lease); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.peers, l.Name)
	}
}

// renew writes this CloudCore's Lease, and makes it where it is not there.
func (r *Replicas) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	now := metav1.NewMicroTime(r.deps.Now())
	seconds := int32(silent / time.Second)
	l := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Namespace: r.cfg.Namespace, Labels: map[string]string{Label: ""},
			Annotations: map[string]string{AnnotationSessions: strconv.Itoa(r.deps.Sessions()), AnnotationMaxSessions: strconv.Itoa(r.cfg.MaxSessions)}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &r.cfg.Address, RenewTime: &now, LeaseDurationSeconds: &seconds},
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": l.Annotations}, "spec": map[string]any{"renewTime": now}})
	if err != nil {
		return fmt.Errorf("encode the lease of this CloudCore: %w", err)
	}
	leases := r.deps.Client.CoordinationV1().Leases(r.cfg.Namespace)
	_, err = leases.Patch(ctx, r.name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "cloudcore"})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, l, metav1.CreateOptions{FieldManager: "cloudcore"})
	}
	if err != nil {
		return fmt.Errorf("write lease %s/%s: %w", r.cfg.Namespace, r.name, err)
	}
	return nil
}

// tidy removes what CloudCores left behind that were killed.
func (r *Replicas) tidy(ctx context.Context) {
	r.mu.Lock()
	left := r.peers.left(r.deps.Now())
	r.mu.Unlock()
	for name, version := range left {
		// Nothing was heard of it, which may be for want of a watch: one that was renewed since stays.
		err := r.deps.Client.CoordinationV1().Leases(r.cfg.Namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			r.deps.Log.Warn("cannot remove the lease of a CloudCore that is gone", "lease", name, "error", err)
		}
	}
}

// leave tells the others at once that this CloudCore ends.
func (r *Replicas) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := r.deps.Client.CoordinationV1().Leases(r.cfg.Namespace).Delete(ctx, r.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.deps.Log.Info("the lease of this CloudCore stays until the others notice that it is gone", "error", err)
	}
}
