package ctl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/keadm"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/edge/kubeapi"
	"github.com/tether-edge/tether/edge/store"
	"github.com/tether-edge/tether/tests/cluster"
)

const (
	nodeName = "edge-1"
	patience = time.Minute
)

// A gateway is an edge node as a person there has it: its API over loopback, keadm's configuration, and kubectl.
type gateway struct {
	t       *testing.T
	store   *store.Store
	dir     string
	kubectl string
	version int
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// offline is a cloud that is away.
type offline struct{}

func (offline) Call(context.Context, object.Call) (object.Reply, error) {
	return object.Reply{}, errors.New("no link to the cloud")
}

// toKubelet sends whatever host is asked for to one server.
type toKubelet struct{ server *httptest.Server }

func (k toKubelet) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host = "http", k.server.Listener.Addr().String()
	return k.server.Client().Transport.RoundTrip(req)
}

func startGateway(t *testing.T, kubelet http.HandlerFunc) *gateway {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := cluster.Program(t.Context(), "kubectl")
	must(err)
	g := &gateway{t: t, dir: t.TempDir(), kubectl: program}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait(); must(g.store.Close()) })
	g.store, err = store.Open(ctx, store.Config{Dir: t.TempDir(), NodeName: nodeName, EventQuota: 1 << 20, CopyInterval: time.Hour}, store.Deps{Log: log})
	must(err)
	start := func(what string, run func() error) {
		running.Go(func() {
			if err := run(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	start("the store", func() error { return g.store.Start(ctx) })
	server := httptest.NewServer(kubelet)
	t.Cleanup(server.Close)
	a, err := kubeapi.New(kubeapi.Config{NodeName: nodeName, Version: "v1.36.3", AdminGroup: "operators"},
		kubeapi.Deps{Store: g.store, Cloud: offline{}, Log: log, Clock: wallClock{}, Kubelet: toKubelet{server}})
	must(err)
	var ids []object.ID
	for _, k := range object.Synced() {
		ids = append(ids, k.ID())
	}
	must(g.store.MarkSynced(ctx, ids))

	ca, err := pki.NewCA("tether-local", time.Hour, time.Now)
	must(err)
	own, err := ca.IssueServer([]string{"127.0.0.1"}, time.Hour)
	must(err)
	cert, err := tls.X509KeyPair(own.Cert, own.Key)
	must(err)
	operators := x509.NewCertPool()
	operators.AddCert(ca.Cert())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	start("the local API", func() error {
		return a.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: operators})
	})
	person, err := ca.IssueClient("local-admin", []string{"operators"}, time.Hour)
	must(err)
	must(clientcmd.WriteToFile(api.Config{
		CurrentContext: "edge", Contexts: map[string]*api.Context{"edge": {Cluster: "edge", AuthInfo: "edge"}},
		Clusters:  map[string]*api.Cluster{"edge": {Server: "https://" + l.Addr().String(), CertificateAuthorityData: ca.CertPEM()}},
		AuthInfos: map[string]*api.AuthInfo{"edge": {ClientCertificateData: person.Cert, ClientKeyData: person.Key}},
	}, filepath.Join(g.dir, "admin.kubeconfig")))
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName, cfg.DataDir, cfg.API.BindAddress = nodeName, g.dir, l.Addr().String()
	cfg.Cloud.Servers = []string{"127.0.0.1:10000"}
	b, err := v1alpha1.Marshal(cfg)
	must(err)
	must(os.WriteFile(filepath.Join(g.dir, "edgecore.yaml"), b, 0o600))
	return g
}

// receive stores o as the stream from the hub would.
func (g *gateway) receive(id object.ID, o object.Object) {
	g.t.Helper()
	k, _ := object.Lookup(id)
	g.version++
	o = o.DeepCopyObject().(object.Object)
	o.SetResourceVersion(fmt.Sprint(1000 + g.version))
	object.Strip(o.(runtime.Object))
	body, err := object.Encode(k, o)
	if err != nil {
		g.t.Fatal(err)
	}
	v, err := object.VersionOf(o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.apply(store.Incoming{Key: object.KeyOf(id, o), Version: v, Body: body})
}

// remove drops an object as a deletion in the cloud does.
func (g *gateway) remove(id object.ID, o object.Object) {
	g.t.Helper()
	g.version++
	o.SetResourceVersion(fmt.Sprint(1000 + g.version))
	v, err := object.VersionOf(o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.apply(store.Incoming{Key: object.KeyOf(id, o), Version: v, Cause: object.CauseDeleted})
}

func (g *gateway) apply(in store.Incoming) {
	g.t.Helper()
	if err := g.store.ApplyBatch(g.t.Context(), []store.Incoming{in}); err != nil {
		g.t.Fatal(err)
	}
}

// said is what a program wrote, and its exit code.
type said struct {
	code     int
	out, err string
}

// keadm runs keadm ctl.
func (g *gateway) keadm(ctx context.Context, out, errOut io.Writer, args ...string) int {
	at := len(args)
	for i, a := range args {
		if a == "--" {
			at = i
			break
		}
	}
	line := append([]string{"ctl"}, args[:at]...)
	line = append(append(line, "--config", filepath.Join(g.dir, "edgecore.yaml")), args[at:]...)
	return keadm.Run(ctx, line, keadm.IO{Out: out, Err: errOut, In: strings.NewReader(""), Now: time.Now})
}

// stock prepares kubectl.
func (g *gateway) stock(ctx context.Context, out, errOut io.Writer, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, g.kubectl, append([]string{"--kubeconfig", filepath.Join(g.dir, "admin.kubeconfig"), "--cache-dir", filepath.Join(g.dir, "cache")}, args...)...)
	cmd.Stdout, cmd.Stderr = out, errOut
	return cmd
}

// both runs the same with both, to the end.
func (g *gateway) both(args ...string) (ours, stock said) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	ours.code = g.keadm(ctx, &out, &errOut, args...)
	ours.out, ours.err = out.String(), errOut.String()
	out.Reset()
	errOut.Reset()
	cmd := g.stock(ctx, &out, &errOut, args...)
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		g.t.Fatalf("%q: %v, %v", args, err, ctx.Err())
	}
	return ours, said{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}
