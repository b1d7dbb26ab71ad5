package twins

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed alone, and show its steps")
	seedsFlag = flag.Uint64("seeds", 20, "run the seeds from 1 to this")
	fromFlag  = flag.Uint64("from", 1, "begin with this seed")
	atFlag    = flag.Int("at", 4, "run so many at a time")
	waitFlag  = flag.Duration("patience", 3*time.Minute, "how long all may take to agree: seconds, and longer on a machine that compiles")
	logFlag   = flag.String("log", "", "write what all parts say into this file")
)

// lab is what all trials share: an API server with Tether's kinds and rights, and the edge CA.
type lab struct {
	*stack.Stack
	client dynamic.Interface
	ca     *trust.Authority
	cloud  v1alpha1.CloudCore
	log    *slog.Logger

	trials atomic.Int64
}

// address gives a trial an address of loopback that nobody else has: on 127.0.0.1 a port that is free while something restarts may be
// taken by any connection.
func (l *lab) address() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>8&63, pid&255, 1+l.trials.Add(1)%250)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := cluster.ForTest(t)
	// Without controllers: a node controller would find the Nodes, which have no kubelet, wanting.
	control, err := stack.PlainAPIServer(ctx, c)
	must(err)
	l := &lab{}
	l.Stack, err = stack.New(ctx, c, control)
	must(err)
	must(l.ChangeCloud(func(cfg *v1alpha1.CloudCore) {
		cfg.Tunnel = v1alpha1.Tunnel{} // nobody asks for a kubelet
		cfg.Hub.QUICPort = 0
		l.cloud = *cfg
	}))
	l.client, err = dynamic.NewForConfig(l.REST())
	must(err)
	l.ca, err = trust.New(l.Admin, time.Now).CA(ctx)
	must(err)
	l.log = slog.New(slog.DiscardHandler)
	if *logFlag != "" {
		f, err := os.Create(*logFlag)
		must(err)
		t.Cleanup(func() { _ = f.Close() })
		l.log = slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return l
}

// identity is what a node dials with.
func (l *lab) identity(t *testing.T, name string) (*pki.Identity, *pki.Authorities) {
	t.Helper()
	dir := t.TempDir()
	cert, key, roots := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	pair, err := l.ca.CA.IssueNode(name, 24*time.Hour)
	if err == nil {
		err = pair.Save(cert, key)
	}
	if err == nil {
		err = os.WriteFile(roots, l.ca.Bundle(), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(cert, key, l.log)
	if err != nil {
		t.Fatal(err)
	}
	authorities, err := pki.NewAuthorities(roots, l.log)
	if err != nil {
		t.Fatal(err)
	}
	return id, authorities
}

// node makes a Node that is Ready; CloudCore renews its Lease while the edge is connected.
func (l *lab) node(t *testing.T, name string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: node.ProviderIDPrefix + name}}
	if _, err := l.Admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, time.Now().Format(time.RFC3339))
	if _, err := l.Admin.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) kind(namespace, resource string) dynamic.ResourceInterface {
	return l.client.Resource(v1beta1.GroupVersion.WithResource(resource)).Namespace(namespace)
}

// TestCloudEdgeAndDevicesAgreeInTheEnd is what the package is for.
func TestCloudEdgeAndDevicesAgreeInTheEnd(t *testing.T) {
	l := newLab(t)
	seeds := []uint64{*seedFlag}
	if *seedFlag == 0 {
		seeds = nil
		for s := *fromFlag; s < *fromFlag+*seedsFlag; s++ {
			seeds = append(seeds, s)
		}
	}
	// Trials mostly wait. Their CloudCores see each other's devices, as those of a cluster with several do.
	var running errgroup.Group
	running.SetLimit(*atFlag)
	for _, seed := range seeds {
		running.Go(func() error {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { newTrial(t, l, seed).run() })
			return nil
		})
	}
	_ = running.Wait() // failures are the subtests'
}
