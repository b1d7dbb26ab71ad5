package autonomy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/kubeapi"
	"github.com/tether-edge/tether/edge/store"
)

// world is a node with a real store and local API, and a shelf of images in place of the runtime.
type world struct {
	*Autonomy
	t     *testing.T
	cfg   *v1alpha1.EdgeCore
	store *store.Store
	api   corev1client.CoreV1Interface
	rv    uint64
	now   time.Time

	here map[string]bool // images
	// given are the users to whom an image was given; everybody is everybody.
	given  map[string]string
	mounts []string
	linked bool
	// early: somebody looked before the first sync.
	early atomic.Bool
}

func (w *world) Look(_ context.Context, name string, who []*runtimeapi.AuthConfig) (image.Local, error) {
	to := func(a *runtimeapi.AuthConfig) bool { return a.Username == w.given[name] }
	return image.Local{Here: w.here[name], Given: w.given[name] == everybody || slices.ContainsFunc(who, to)}, nil
}

const everybody = "everybody"

func (w *world) Mounts(context.Context) ([]string, error) {
	if !w.store.EverSynced() {
		w.early.Store(true)
	}
	return w.mounts, nil
}

// credentials takes the user's name for a Secret.
func credentials(_ string, pull []corev1.Secret) (all []*runtimeapi.AuthConfig, err error) {
	for _, s := range pull {
		if s.Data["user"] == nil {
			return nil, errors.New("no user")
		}
		all = append(all, &runtimeapi.AuthConfig{Username: string(s.Data["user"])})
	}
	return all, nil
}

type noCloud struct{}

func (noCloud) Call(context.Context, object.Call) (object.Reply, error) {
	return object.Reply{}, errors.New("no link")
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName, cfg.DataDir, cfg.Kubelet.RootDir = "edge-1", dir, filepath.Join(dir, "kubelet")
	cfg.Cloud.CertFile = filepath.Join(dir, "node.crt")
	w := &world{t: t, cfg: cfg, now: time.Now().Truncate(time.Second), here: map[string]bool{}, given: map[string]string{}, mounts: []string{dir}, linked: true}
	for _, d := range []string{cfg.Kubelet.RootDir, filepath.Join(dir, "logs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	if w.store, err = store.Open(t.Context(), store.Config{Dir: filepath.Join(dir, "store"), NodeName: "edge-1", EventQuota: 1 << 20, CopyInterval: time.Hour}, store.Deps{Log: log}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.store.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, w.store.Close()); err != nil {
			t.Error(err)
		}
	})
	server, err := kubeapi.New(kubeapi.Config{NodeName: "edge-1", Version: "v1.36.3"}, kubeapi.Deps{Store: w.store, Cloud: noCloud{}, Log: log, Clock: clock{w}})
	if err != nil {
		t.Fatal(err)
	}
	if w.api, err = corev1client.NewForConfig(&rest.Config{Host: "https://edge", Transport: server.Transport()}); err != nil {
		t.Fatal(err)
	}
	w.Autonomy = New(cfg, Deps{Store: w.store, Images: w, Credentials: credentials, Node: w.node().Node, Linked: func() bool { return w.linked },
		LogsDir: filepath.Join(dir, "logs"), LogsOfAContainer: 50 << 20, Log: log, Now: func() time.Time { return w.now }, Registry: prometheus.NewRegistry()})
	w.certify(time.Hour, 90*24*time.Hour)
	return w
}

type clock struct{ w *world }

func (c clock) Now() time.Time { return c.w.now }

// sources are those of the node.
func (w *world) sources() *sources {
	return &sources{w.cfg, Deps{Store: w.store, Images: w, Credentials: credentials, Now: func() time.Time { return w.now },
		LogsDir: filepath.Join(w.cfg.DataDir, "logs"), LogsOfAContainer: 50 << 20, Linked: func() bool { return w.linked }}}
}

// node is the node as this package writes it.
func (w *world) node() node {
	return node{&ownnode.Node{Name: "edge-1", Store: w.store, API: w.api, Now: func() time.Time { return w.now }}}
}

// certify writes a certificate that ends after life and can be exchanged for grace longer; without a line for 0.
func (w *world) certify(life, grace time.Duration) {
	w.t.Helper()
	ca, err := pki.NewCA("edge", life, time.Now)
	if err != nil {
		w.t.Fatal(err)
	}
	data := ca.CertPEM()
	if grace > 0 {
		data = pki.WithRenewable(data, ca.Cert().NotAfter.Add(grace))
	}
	if err := os.WriteFile(w.cfg.Cloud.CertFile, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// put has the cloud send objects.
func (w *world) put(id object.ID, list ...object.Object) {
	w.t.Helper()
	kind, _ := object.Lookup(id)
	var batch []store.Incoming
	for _, o := range list {
		w.rv++
		o.SetResourceVersion(object.FormatRV(w.rv))
		if o.GetUID() == "" {
			o.SetUID(types.UID(o.GetName()))
		}
		body, err := object.Encode(kind, o)
		if err != nil {
			w.t.Fatal(err)
		}
		batch = append(batch, store.Incoming{Key: object.KeyOf(id, o), Version: object.Version{UID: string(o.GetUID()), RV: w.rv}, Body: body})
	}
	if err := w.store.ApplyBatch(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
}

// sync marks all kinds as received.
func (w *world) sync() {
	w.t.Helper()
	var ids []object.ID
	for _, k := range object.Synced() {
		ids = append(ids, k.ID())
	}
	if err := w.store.MarkSynced(w.t.Context(), ids); err != nil {
		w.t.Fatal(err)
	}
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }

// pod is one that runs an image.
func pod(name, image string, policy corev1.PullPolicy, secrets ...string) *corev1.Pod {
	began := metav1.NewTime(time.Now().Add(-time.Hour))
	p := &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{NodeName: "edge-1", Containers: []corev1.Container{{Name: "main", Image: image, ImagePullPolicy: policy}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
	for _, s := range secrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return p
}

// told are the Events that wait for the cloud, by reason.
func (w *world) told() map[string]string {
	w.t.Helper()
	told := map[string]string{}
	kind, _ := object.Lookup(object.Events)
	for _, o := range w.queued(object.Events) {
		e, err := object.Decode(kind, o.Body)
		if err != nil {
			w.t.Fatal(err)
		}
		event := e.(*corev1.Event)
		told[event.Reason] = fmt.Sprintf("%s %s/%s %s by %s: %s", event.Type, event.InvolvedObject.Kind, event.InvolvedObject.Name, event.InvolvedObject.UID, event.Source.Host, event.Message)
	}
	return told
}

func (w *world) queued(kind object.ID) (all []object.Outgoing) {
	w.t.Helper()
	var ids []uint64
	if err := w.store.Queue(w.t.Context(), func(h store.Head) error {
		if h.Key.Kind == kind {
			ids = append(ids, h.ID)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, id := range ids {
		o, ok, err := w.store.LoadOutgoing(w.t.Context(), id)
		if err != nil || !ok {
			w.t.Fatal(ok, err)
		}
		all = append(all, o)
	}
	return all
}

// eventually waits until ok returns nil.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
	}
}

// overlay is what the node wrote into its Node and the cloud has not got.
func (w *world) overlay() (condition map[string]string, until string) {
	w.t.Helper()
	for _, o := range w.queued(object.Nodes) {
		var sent object.Overlay
		if err := json.Unmarshal(o.Body, &sent); err != nil {
			w.t.Fatal(err)
		}
		for _, c := range sent.Node.Conditions {
			condition = map[string]string{"type": string(c.Type), "status": string(c.Status), "reason": c.Reason}
		}
		if u := sent.Annotations[object.AnnotationAutonomyUntil]; u != nil {
			until = *u
		}
	}
	return maps.Clone(condition), until
}
