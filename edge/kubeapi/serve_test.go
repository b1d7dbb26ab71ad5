package kubeapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// authority signs certificates for a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

func newAuthority(t testing.TB, now time.Time) *authority {
	a := &authority{t: t, now: now}
	a.key = a.newKey()
	tmpl := a.template("ca", nil)
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	a.cert = tmpl
	a.cert = a.sign(tmpl, &a.key.PublicKey)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return k
}

func (a *authority) template(name string, organizations []string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: organizations},
		NotBefore: a.now.Add(-time.Hour), NotAfter: a.now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

func (a *authority) sign(tmpl *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func (a *authority) issue(name string, organizations ...string) tls.Certificate {
	key := a.newKey()
	c := a.sign(a.template(name, organizations), &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func TestLocalClientsAreLetInByCertificateAlone(t *testing.T) {
	e := newEnv(t, func(c *Config, _ *Deps) { c.AdminGroup = "tether:operators" })
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	ca := newAuthority(t, e.clock.Now())
	foreign := newAuthority(t, e.clock.Now())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- e.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{ca.issue("edge")}, ClientCAs: ca.pool()})
	}()
	get := func(certs ...tls.Certificate) (int, string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: certs}, DisableKeepAlives: true,
		}}
		resp, err := client.Get("https://" + l.Addr().String() + "/api/v1/namespaces/shop/pods/web")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		what  string
		certs []tls.Certificate
		code  int
	}{
		{"no certificate", nil, 401},
		{"a certificate of another CA", []tls.Certificate{foreign.issue("admin", "system:masters")}, 401},
		{"a certificate without a right", []tls.Certificate{ca.issue("someone", "staff")}, 403},
		{"the node's own name", []tls.Certificate{ca.issue("system:node:"+node, "system:nodes")}, 403},
		{"system:masters", []tls.Certificate{ca.issue("admin", "system:masters")}, 200},
		{"the operators' group", []tls.Certificate{ca.issue("op", "tether:operators")}, 200},
	} {
		if code, body := get(c.certs...); code != c.code || !strings.Contains(body, `"kind"`) {
			t.Errorf("%s: %d %s, expected %d", c.what, code, body, c.code)
		}
	}
	good := ca.issue("admin", "system:masters")
	e.clock.advance(24 * time.Hour)
	if code, _ := get(good); code != 401 {
		t.Errorf("a certificate that has expired by this edge's clock: %d, expected 401", code)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patient):
		t.Error("Serve outlives its context")
	}
}
