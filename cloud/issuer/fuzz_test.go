package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

// bench is an issuer without its port: the fuzzers call what is behind it.
type bench struct {
	*Issuer
	trusted *Trusted
	token   trust.Bearer

	// csr and other are requests of shop-1 and shop-2, as JSON writes them.
	csr, other string
	peer       *tls.ConnectionState
}

func newBench(f *testing.F) *bench {
	f.Helper()
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	client, log := fake.NewClientset(), slog.New(slog.NewTextHandler(io.Discard, nil))
	store := trust.New(client, clock)
	b := &bench{trusted: NewTrusted(store, client, []string{"127.0.0.1"}, func() {}, log)}
	if err := b.trusted.Load(context.Background()); err != nil {
		f.Fatal(err)
	}
	b.Issuer = New(Config{Validity: 7 * day, Grace: 90 * day}, Deps{Trust: store, CA: b.trusted, Nodes: &nodes{}, Log: log, Now: clock, Registry: prometheus.NewRegistry()})
	var err error
	if b.token, err = store.NewToken(context.Background(), trust.TokenRequest{Nodes: "shop-*", Life: day}); err != nil {
		f.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for node, into := range map[string]*string{"shop-1": &b.csr, "shop-2": &b.other} {
		request, err := pki.NewNodeRequest(node, key)
		if err != nil {
			f.Fatal(err)
		}
		*into = strings.ReplaceAll(string(request), "\n", `\n`)
	}
	signed, err := b.trusted.Authority().CA.SignNode("shop-1", key.Public(), 7*day, now)
	if err != nil {
		f.Fatal(err)
	}
	certs, err := pki.ParseCertificates(signed)
	if err != nil {
		f.Fatal(err)
	}
	if err := store.Record(context.Background(), trust.Identity{Node: "shop-1", Machine: machine, Issued: now, Until: now}, func(*trust.Identity) error { return nil }); err != nil {
		f.Fatal(err)
	}
	b.peer = &tls.ConnectionState{PeerCertificates: certs}
	return b
}

// check judges an answer: a refusal that says why, or a certificate of one of the nodes allowed, for clients, by the CA.
func (b *bench) check(t *testing.T, body []byte, out any, err error, allowed func(node string) bool) {
	t.Helper()
	if err != nil {
		var r *join.Refusal
		if !errors.As(err, &r) || r.Status < 400 || r.Status > 499 || r.Reason == "" || r.Message == "" || len(r.Message) > 8<<10 {
			t.Errorf("%q: got %.500v, expected a refusal that says why", body, err)
		}
		return
	}
	certs, err := pki.ParseCertificates([]byte(out.(*join.Response).Certificate))
	if err != nil {
		t.Fatalf("%q: the answer holds no certificate: %v", body, err)
	}
	node, err := pki.NodeName(certs[0])
	if err != nil || !allowed(node) || len(certs[0].Subject.Organization) != 1 || certs[0].IsCA || len(certs[0].DNSNames) > 0 {
		t.Errorf("%q bought a certificate of %v (%v)", body, certs[0].Subject, err)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: b.trusted.Authority().Pool(), CurrentTime: b.deps.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Errorf("%q bought a certificate of a server", body)
	}
}

// FuzzJoin sends any body with a good token, or without one: no certificate but of a node that the token is for.
func FuzzJoin(f *testing.F) {
	b := newBench(f)
	seed := func(change func(*join.Request)) {
		q := join.Request{TokenID: "TOKEN", TokenSecret: "SECRET", Node: "shop-1", CSR: "CSR", Machine: machine}
		change(&q)
		body, err := json.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	seed(func(*join.Request) {})
	seed(func(q *join.Request) { q.Node = "shop-2" })
	seed(func(q *join.Request) { q.Node = "shop-\n" })
	seed(func(q *join.Request) { q.Node = "toll-1" })
	seed(func(q *join.Request) { q.Machine, q.Replace = strings.Repeat("f", 64), true })
	seed(func(q *join.Request) { q.TokenID = "../../x" })
	seed(func(q *join.Request) { q.TokenSecret = "" })
	seed(func(q *join.Request) { q.CSR += "CSR" })
	seed(func(q *join.Request) { q.CSR = strings.Repeat("x", 1<<10) })
	f.Add([]byte(`{"tokenID":1}`))
	f.Add([]byte(`{"tokenID":"TOKEN","tokenid":"x","TOKENSECRET":"SECRET","node":null}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, template []byte) {
		// The fuzzer cannot guess these, and a thief might know them.
		body := []byte(strings.NewReplacer("TOKEN", b.token.ID, "SECRET", b.token.Secret, "CSR", b.csr).Replace(string(template)))
		if len(body) > join.MaxBody {
			return
		}
		out, err := b.join(t.Context(), &http.Request{RemoteAddr: "127.0.0.1:1"}, body)
		b.check(t, body, out, err, func(node string) bool { return node == "shop-1" && strings.Contains(string(template), "SECRET") })
	})
}

// FuzzRenew sends any body with a node's certificate: no certificate but that node's.
func FuzzRenew(f *testing.F) {
	b := newBench(f)
	f.Add([]byte(`{"csr":"CSR"}`))
	f.Add([]byte(`{"csr":"OTHER"}`))
	f.Add([]byte(`{"csr":"CSROTHER"}`))
	f.Add([]byte(`{"csr":null}`))
	f.Add([]byte(`{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"}`))
	f.Add([]byte(`"CSR"`))
	f.Fuzz(func(t *testing.T, template []byte) {
		body := []byte(strings.NewReplacer("CSR", b.csr, "OTHER", b.other).Replace(string(template)))
		if len(body) > join.MaxBody {
			return
		}
		out, err := b.renew(t.Context(), &http.Request{RemoteAddr: "127.0.0.1:1", TLS: b.peer}, body)
		b.check(t, body, out, err, func(node string) bool { return node == "shop-1" })
	})
}
