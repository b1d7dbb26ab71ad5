package soak

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/kubeapi"
	"github.com/tether-edge/tether/edge/store"
)

const nodeName = "edge-1"

// api is the local API over a store of its own.
type api struct {
	t       *testing.T
	store   *store.Store
	metrics *prometheus.Registry
	// kubelet is the way in memory; base is the URL over TLS, which client asks.
	kubelet http.RoundTripper
	base    string
	tls     *tls.Config
	version uint64 // the cloud's, of the last write; its one writer's
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// noCloud is a link that is cut.
type noCloud struct{}

func (noCloud) Call(context.Context, object.Call) (object.Reply, error) {
	return object.Reply{}, errors.New("there is no link")
}

func startAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, metrics: prometheus.NewRegistry()}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	a.store, err = store.Open(ctx, store.Config{Dir: t.TempDir(), NodeName: nodeName, EventQuota: 1 << 20, CopyInterval: time.Hour},
		store.Deps{Log: log, Registerer: a.metrics})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- a.store.Start(ctx) }()
	server, err := kubeapi.New(kubeapi.Config{NodeName: nodeName, Version: "v1.36.3"},
		kubeapi.Deps{Store: a.store, Cloud: noCloud{}, Log: log, Clock: wallClock{}, Registerer: a.metrics})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate, roots := authority(t)
	go func() {
		ended <- server.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: roots})
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, a.store.Close()); err != nil {
			t.Error(err)
		}
	})
	a.kubelet, a.base = server.Transport(), "https://"+l.Addr().String()
	a.tls = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}
	var kinds []object.ID
	for _, k := range object.Synced() {
		kinds = append(kinds, k.ID())
	}
	if err := a.store.MarkSynced(ctx, kinds); err != nil {
		t.Fatal(err)
	}
	return a
}

// authority is a certificate that serves, and that is an operator's, and what vouches for it.
func authority(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// client keeps connections of its own.
func (a *api) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: a.tls, ForceAttemptHTTP2: true}}
}

// write changes a ConfigMap and a pod, as the cloud does. It has one caller at a time.
func (a *api) write(ctx context.Context, i int) error {
	a.version++
	meta := func(kind string) metav1.ObjectMeta {
		name := fmt.Sprintf("%s-%d", kind, i%objects)
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: object.FormatRV(a.version),
			Annotations: map[string]string{"turn": fmt.Sprint(i)}}
	}
	var batch []store.Incoming
	for id, o := range map[object.ID]object.Object{
		object.ConfigMaps: &corev1.ConfigMap{ObjectMeta: meta("config"), Data: map[string]string{"k": fmt.Sprint(i)}},
		object.Pods: &corev1.Pod{ObjectMeta: meta("pod"), Spec: corev1.PodSpec{NodeName: nodeName,
			Containers: []corev1.Container{{Name: "main", Image: "demo"}}}},
	} {
		kind, _ := object.Lookup(id)
		body, err := object.Encode(kind, o)
		if err != nil {
			return err
		}
		version, err := object.VersionOf(o)
		if err != nil {
			return err
		}
		batch = append(batch, store.Incoming{Key: object.KeyOf(id, o), Version: version, Body: body})
	}
	return a.store.ApplyBatch(ctx, batch)
}
