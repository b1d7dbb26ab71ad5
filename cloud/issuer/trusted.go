package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/tether-edge/tether/common/trust"
)

// serverValidity is the life of CloudCore's own certificate, which it makes for itself at its start and again at a
// third of that.
const serverValidity = 30 * 24 * time.Hour

// Trusted is the cluster's trust as it is now: the edge CA, this CloudCore's certificate and the revocations, kept up to
// date by a watch. Its methods but Start are safe for concurrent use and read memory; they must not be called before
// Load.
type Trusted struct {
	store   *trust.Store
	client  kubernetes.Interface
	hosts   []string
	changed func()
	log     *slog.Logger

	// mu is held while authority and own change, which belong together.
	mu        sync.Mutex
	authority atomic.Pointer[trust.Authority]
	own       atomic.Pointer[tls.Certificate]
	revoked   atomic.Pointer[trust.Revocations]
}

// NewTrusted returns one for a CloudCore of these names and addresses. changed is called after the CA or the revocations
// changed.
func NewTrusted(store *trust.Store, client kubernetes.Interface, hosts []string, changed func(), log *slog.Logger) *Trusted {
	return &Trusted{store: store, client: client, hosts: hosts, changed: changed, log: log}
}

// Load reads the cluster's trust, and makes the CA where there is none.
func (t *Trusted) Load(ctx context.Context) error {
	a, made, err := t.store.EnsureCA(ctx)
	if err != nil {
		return err
	}
	if made {
		t.log.Info("made the edge CA", "pin", a.Pin())
	}
	r, err := t.store.Revocations(ctx)
	if err != nil {
		return err
	}
	t.revoked.Store(&r)
	return t.take(a)
}

// Derive makes a secret that every CloudCore of the cluster makes alike.
func (t *Trusted) Derive(purpose string) ([32]byte, error) {
	return t.authority.Load().CA.Derive(purpose)
}

// take makes a the CA, with a certificate of it for this CloudCore.
func (t *Trusted) take(a *trust.Authority) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(a)
}

// renew makes this CloudCore's next certificate, of the CA that is the present one by then.
func (t *Trusted) renew() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(t.authority.Load())
}

// takeLocked wants mu held.
func (t *Trusted) takeLocked(a *trust.Authority) error {
	cert, err := a.Server(t.hosts, serverValidity)
	if err != nil {
		return err
	}
	t.own.Store(cert)
	t.authority.Store(a)
	return nil
}

// Start follows changes until ctx is done.
func (t *Trusted) Start(ctx context.Context) error {
	secrets := t.client.CoreV1().Secrets(trust.Namespace)
	only := func(o *metav1.ListOptions) { o.LabelSelector = trust.Label + " in (ca,revocations)" }
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				only(&o)
				return secrets.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				only(&o)
				return secrets.Watch(ctx, o)
			},
		},
		ObjectType: &corev1.Secret{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { t.saw(ctx, o) },
			UpdateFunc: func(_, o any) { t.saw(ctx, o) },
			// A deleted CA is no order to forget it: sessions go on, and a new one would lock every edge out.
			DeleteFunc: func(o any) {
				t.log.Error("a Secret of the edge CA or the revocations was deleted: what it held stays in force here until CloudCore restarts; restore it")
			},
		},
	})
	renew := time.NewTicker(time.Hour)
	defer renew.Stop()
	done := make(chan struct{})
	go func() { defer close(done); controller.RunWithContext(ctx) }()
	for {
		select {
		case <-ctx.Done():
			<-done
			return nil
		case <-renew.C:
			if leaf := t.own.Load().Leaf; leaf == nil || time.Until(leaf.NotAfter) < serverValidity*2/3 {
				if err := t.renew(); err != nil {
					t.log.Error("cannot renew CloudCore's certificate", "error", err)
				}
			}
			t.changed() // sessions whose certificate has expired end too
		}
	}
}

func (t *Trusted) saw(ctx context.Context, o any) {
	x, ok := o.(*corev1.Secret)
	if !ok {
		return
	}
	switch x.Name {
	case trust.RevocationSecret:
		r := trust.ParseRevocations(x)
		t.revoked.Store(&r)
	case trust.CASecret:
		a, err := t.store.CA(ctx)
		if err == nil && string(a.Bundle()) == string(t.authority.Load().Bundle()) {
			return
		}
		if err == nil {
			err = t.take(a)
		}
		if err != nil {
			t.log.Error("the changed edge CA cannot be used, the former one stays in use", "error", err)
			return
		}
		t.log.Info("the edge CA changed", "pin", a.Pin())
	default:
		return
	}
	t.changed()
}

// Authority is the edge CA.
func (t *Trusted) Authority() *trust.Authority { return t.authority.Load() }

// Certificate is this CloudCore's own.
func (t *Trusted) Certificate() *tls.Certificate { return t.own.Load() }

// Pool is every CA that may vouch for an edge.
func (t *Trusted) Pool() *x509.CertPool { return t.authority.Load().Pool() }

// Revoked reports whether a node's certificate is revoked.
func (t *Trusted) Revoked(node string, cert *x509.Certificate) bool {
	return t.revoked.Load().Revoked(node, cert)
}
