// Package autonomy joins edge/horizon to a node: to its certificate's file, its store, its images and file systems, and to its
// Node in the local API. edge/edgecore runs it; it is a package of its own so that tests can run it without a kubelet.
package autonomy

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/horizon"
	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/store"
)

// Images is the image service.
type Images interface {
	Look(ctx context.Context, name string, credentials []*runtimeapi.AuthConfig) (image.Local, error)
	Mounts(ctx context.Context) ([]string, error)
}

// Deps are what it works with; all are required.
type Deps struct {
	Store  *store.Store
	Images Images
	// Credentials are what the kubelet shows a registry for an image.
	Credentials func(image string, pull []corev1.Secret) ([]*runtimeapi.AuthConfig, error)
	Node        *ownnode.Node
	Linked      func() bool
	// FenceIn is for how long pods that are to be fenced run yet where the cloud is not heard; ok is false where nothing fences them.
	FenceIn func() (left time.Duration, ok bool)
	// LogsDir is where the logs of pods are, LogsOfAContainer what one may keep, in bytes.
	LogsDir          string
	LogsOfAContainer int64
	Log              *slog.Logger
	Now              func() time.Time
	Registry         prometheus.Registerer
}

// Autonomy judges a node and shows it.
type Autonomy struct {
	watcher *horizon.Watcher
	store   *store.Store
}

// New does nothing until Start. cfg is valid.
func New(cfg *v1alpha1.EdgeCore, deps Deps) *Autonomy {
	return &Autonomy{store: deps.Store, watcher: horizon.New(horizon.Config{AtLeast: cfg.Autonomy.AtLeast.Std()}, horizon.Deps{
		Sources: &sources{cfg, deps}, Node: node{deps.Node}, Memory: memory{deps.Store}, Log: deps.Log, Now: deps.Now, Registry: deps.Registry})}
}

// Start judges from the first sync on: before that there is nothing that could end.
func (a *Autonomy) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.store.FirstSync():
	}
	return a.watcher.Start(ctx)
}

// Status returns the last judgement, or nil before the first.
func (a *Autonomy) Status() *horizon.Judgement {
	if j, ok := a.watcher.Status(); ok {
		return &j
	}
	return nil
}
