package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

// nodes remembers what the issuer told.
type nodes struct {
	mu      sync.Mutex // guards all below
	joined  []string
	refused []string
	removed []string
	session string // pin of the key that a live session of any node has; "elsewhere" if another CloudCore has it; empty for none
}

func (n *nodes) Session(context.Context, string) (key string, live bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == "elsewhere" {
		return "", true, nil
	}
	return n.session, n.session != "", nil
}

func (n *nodes) Ready(node string) (bool, string) { return node == "ready", "not yet" }
func (n *nodes) Remove(_ context.Context, node string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = append(n.removed, node)
	return nil
}
func (n *nodes) Joined(node, _ string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joined = append(n.joined, node)
}
func (n *nodes) Refused(node, _ string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused = append(n.refused, node)
}

// env is a join port over a cluster in memory, with a clock of its own.
type env struct {
	t       *testing.T
	mu      sync.Mutex // guards at
	at      time.Time
	store   *trust.Store
	trusted *Trusted
	nodes   *nodes
	addr    string
	issuer  *Issuer
}

func (e *env) now() time.Time { e.mu.Lock(); defer e.mu.Unlock(); return e.at }
func (e *env) add(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = e.at.Add(d)
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t, at: time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC), nodes: &nodes{}}
	client := fake.NewClientset()
	e.store = trust.New(client, e.now)
	log := slog.New(slog.DiscardHandler)
	e.trusted = NewTrusted(e.store, client, []string{"127.0.0.1"}, func() {}, log)
	if err := e.trusted.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.addr = l.Addr().String()
	i := New(Config{Validity: 7 * day, Grace: 90 * day, Servers: []string{"127.0.0.1:10000"}, MaxConnections: 16},
		Deps{Listener: l, Trust: e.store, CA: e.trusted, Nodes: e.nodes, Log: log, Now: e.now, Registry: prometheus.NewRegistry()})
	e.issuer = i
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// reload takes up what changed in the cluster, as the watch does.
func (e *env) reload() {
	e.t.Helper()
	if err := e.trusted.Load(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) token(nodes string, uses int) trust.Bearer {
	e.t.Helper()
	b, err := e.store.NewToken(e.t.Context(), trust.TokenRequest{Nodes: nodes, MaxUses: uses, Life: day})
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client believes what the token says.
func (e *env) client(b trust.Bearer) *join.Client {
	e.t.Helper()
	c := &join.Client{Server: e.addr, Now: e.now}
	ca, err := c.CA(e.t.Context(), b.Pin)
	if err != nil {
		e.t.Fatal(err)
	}
	if c.Roots, err = join.NewStaticRoots(ca); err != nil {
		e.t.Fatal(err)
	}
	return c
}

func csr(t *testing.T, node string, key crypto.Signer) string {
	t.Helper()
	b, err := pki.NewNodeRequest(node, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var machine = strings.Repeat("0123456789abcdef", 4)

func (e *env) request(b trust.Bearer, node string, key crypto.Signer) join.Request {
	return join.Request{TokenID: b.ID, TokenSecret: b.Secret, Node: node, CSR: csr(e.t, node, key), Machine: machine}
}

// joined is a node with its certificate.
type joined struct {
	*join.Client
	cert *x509.Certificate
	key  crypto.Signer
}

type presenter struct{ c *tls.Certificate }

func (p presenter) Certificate() *tls.Certificate { return p.c }

func (e *env) as(resp *join.Response, key crypto.Signer) *joined {
	e.t.Helper()
	certs, err := pki.ParseCertificates([]byte(resp.Certificate))
	if err != nil {
		e.t.Fatal(err)
	}
	roots, err := join.NewStaticRoots([]byte(resp.CA))
	if err != nil {
		e.t.Fatal(err)
	}
	return &joined{&join.Client{Server: e.addr, Roots: roots, Now: e.now,
		Identity: presenter{&tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key, Leaf: certs[0]}}}, certs[0], key}
}

func (e *env) join(node string) *joined {
	e.t.Helper()
	b, key := e.token(node, 1), newKey(e.t)
	resp, err := e.client(b).Join(e.t.Context(), e.request(b, node, key))
	if err != nil {
		e.t.Fatal(err)
	}
	return e.as(resp, key)
}

func wantRefusal(t *testing.T, what string, err error, reason string) {
	t.Helper()
	var r *join.Refusal
	if !errors.As(err, &r) || r.Reason != reason {
		t.Errorf("%s: got %v, expected a refusal for %s", what, err, reason)
	}
}

func TestATokenBuysACertificateForItsNodeAndNothingElse(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	if name, err := pki.NodeName(j.cert); name != "edge-1" || err != nil {
		t.Errorf("the certificate is of %q, %v", name, err)
	}
	if o := j.cert.Subject.Organization; len(o) != 1 || o[0] != "system:nodes" {
		t.Errorf("organizations %q", o)
	}
	if len(j.cert.ExtKeyUsage) != 1 || j.cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || j.cert.IsCA || j.cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usages %v %v, CA %t", j.cert.KeyUsage, j.cert.ExtKeyUsage, j.cert.IsCA)
	}
	if life := j.cert.NotAfter.Sub(e.now()); life != 7*day {
		t.Errorf("it is valid for %s", life)
	}
	if s, err := j.Node(t.Context()); err != nil || s.Ready {
		t.Errorf("state %v, %v", s, err)
	}
	if len(e.nodes.joined) != 1 {
		t.Errorf("Events about joins: %v", e.nodes.joined)
	}
}

// rawCSR makes any request, which pki.NewNodeRequest would not.
func rawCSR(t *testing.T, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestWhatATokenDoesNotBuy(t *testing.T) {
	e := newEnv(t)
	key := newKey(t)
	b := e.token("shop-*", 0)
	c := e.client(b)
	subject := func(cn string, o ...string) x509.CertificateRequest {
		return x509.CertificateRequest{Subject: pkix.Name{CommonName: cn, Organization: o}}
	}
	alt := subject("system:node:shop-1", "system:nodes")
	alt.DNSNames = []string{"tether-cloudcore"}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	broken := []byte(csr(t, "shop-1", key))
	broken[len(broken)/2] ^= 1
	for _, c2 := range []struct {
		what, reason string
		change       func(*join.Request)
	}{
		{"a guessed secret", "UnknownToken", func(r *join.Request) { r.TokenSecret = strings.Repeat("a", 32) }},
		{"a guessed id", "UnknownToken", func(r *join.Request) { r.TokenID = "aaaaaaaa" }},
		{"an id that is a path", "UnknownToken", func(r *join.Request) { r.TokenID = "../../ca" }},
		{"no token", "UnknownToken", func(r *join.Request) { r.TokenID, r.TokenSecret = "", "" }},
		{"a node that the token is not for", "TokenForOtherNode", func(r *join.Request) { r.Node, r.CSR = "toll-1", csr(t, "toll-1", key) }},
		{"a request for another node", "BadCertificateRequest", func(r *join.Request) { r.CSR = csr(t, "toll-1", key) }},
		{"a request for another shop", "BadCertificateRequest", func(r *join.Request) { r.CSR = csr(t, "shop-2", key) }},
		{"system:masters", "BadCertificateRequest", func(r *join.Request) { r.CSR = rawCSR(t, key, subject("admin", "system:masters")) }},
		{"system:masters besides", "BadCertificateRequest", func(r *join.Request) {
			r.CSR = rawCSR(t, key, subject("system:node:shop-1", "system:nodes", "system:masters"))
		}},
		{"no organization", "BadCertificateRequest", func(r *join.Request) { r.CSR = rawCSR(t, key, subject("system:node:shop-1")) }},
		{"a server's name", "BadCertificateRequest", func(r *join.Request) { r.CSR = rawCSR(t, key, alt) }},
		{"a weak key", "BadCertificateRequest", func(r *join.Request) { r.CSR = rawCSR(t, weak, subject("system:node:shop-1", "system:nodes")) }},
		{"a signature that does not match", "BadCertificateRequest", func(r *join.Request) { r.CSR = string(broken) }},
		{"no request", "BadCertificateRequest", func(r *join.Request) { r.CSR = "" }},
		{"no machine", "BadRequest", func(r *join.Request) { r.Machine = "" }},
		{"a name that is none", "BadCertificateRequest", func(r *join.Request) { r.Node = "shop-A" }},
	} {
		e.add(10 * time.Second) // the rate of one address is not what is tried here
		r := e.request(b, "shop-1", key)
		c2.change(&r)
		_, err := c.Join(t.Context(), r)
		wantRefusal(t, c2.what, err, c2.reason)
	}
	if tokens, err := e.store.Tokens(t.Context()); err != nil || tokens[0].Uses != 0 {
		t.Errorf("refusals counted as uses: %v, %v", tokens, err)
	}
	if len(e.nodes.joined) != 0 || len(e.nodes.refused) == 0 {
		t.Errorf("Events: joined %v, refused %v", e.nodes.joined, e.nodes.refused)
	}
	e.add(2 * day)
	_, err = c.Join(t.Context(), e.request(b, "shop-1", key))
	wantRefusal(t, "after its time", err, "TokenExpired")
}

func TestATokenIsUsedAsOftenAsItMay(t *testing.T) {
	e := newEnv(t)
	b := e.token("*", 1)
	c, key := e.client(b), newKey(t)
	for range 3 {
		// The answer was lost: the same machine asks again with the same key.
		if _, err := c.Join(t.Context(), e.request(b, "edge-1", key)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Join(t.Context(), e.request(b, "edge-2", newKey(t)))
	wantRefusal(t, "another node", err, "TokenUsedUp")
	_, err = c.Join(t.Context(), e.request(b, "edge-1", newKey(t)))
	wantRefusal(t, "a thief of the used token, with a key of his own", err, "TokenUsedUp")
	if err := e.store.RevokeToken(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	_, err = c.Join(t.Context(), e.request(b, "edge-1", key))
	wantRefusal(t, "a revoked token", err, "UnknownToken")
}

func TestANameIsNotGivenToAnotherMachine(t *testing.T) {
	e := newEnv(t)
	first := e.join("edge-1")
	other := func(b trust.Bearer, replace bool) (*join.Response, crypto.Signer, error) {
		e.add(time.Minute)
		key := newKey(t)
		r := e.request(b, "edge-1", key)
		r.Machine, r.Replace = strings.Repeat("f", 64), replace
		resp, err := e.client(b).Join(t.Context(), r)
		return resp, key, err
	}
	_, _, err := other(e.token("*", 0), false)
	wantRefusal(t, "another machine", err, "NameTaken")
	if !strings.Contains(err.Error(), "--replace") {
		t.Errorf("no remedy: %v", err)
	}
	_, _, err = other(e.token("*", 0), true)
	wantRefusal(t, "replace with a token for all", err, "TokenTooWide")
	_, _, err = other(e.token("edge-?", 0), true)
	wantRefusal(t, "replace with a token for a pattern", err, "TokenTooWide")
	resp, key, err := other(e.token("edge-1", 1), true)
	if err != nil {
		t.Fatalf("replace with a token for that name: %v", err)
	}
	e.reload()
	e.add(2 * time.Second)
	_, err = first.Node(t.Context())
	wantRefusal(t, "the machine that was replaced", err, "Revoked")
	if _, err := e.as(resp, key).Node(t.Context()); err != nil {
		t.Errorf("the machine that replaced it: %v", err)
	}
	// The same machine, set up anew, needs no word for it.
	b := e.token("edge-1", 1)
	r := e.request(b, "edge-1", newKey(t))
	r.Machine = strings.Repeat("f", 64)
	if _, err := e.client(b).Join(t.Context(), r); err != nil {
		t.Errorf("the same machine again: %v", err)
	}
}

func TestACertificateBuysItsSuccessor(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	renew := func(j *joined, node string, key crypto.Signer) (*joined, error) {
		resp, err := j.Renew(t.Context(), []byte(csr(t, node, key)))
		if err != nil {
			return nil, err
		}
		return e.as(resp, key), nil
	}
	e.add(5 * day)
	next, err := renew(j, "edge-1", j.key)
	if err != nil || next.cert.NotAfter.Sub(e.now()) != 7*day {
		t.Fatalf("before its end: %v", err)
	}
	e.add(80 * day)
	e.reload() // CloudCore makes its own certificate anew in time
	if next, err = renew(next, "edge-1", j.key); err != nil {
		t.Fatalf("73 days after its end: %v", err)
	}
	_, err = renew(next, "edge-2", j.key)
	wantRefusal(t, "for another node", err, "BadCertificateRequest")
	_, err = (&join.Client{Server: e.addr, Roots: j.Roots, Now: e.now}).Renew(t.Context(), []byte(csr(t, "edge-1", j.key)))
	wantRefusal(t, "without a certificate", err, "NoCertificate")
	ca, err := pki.NewCA("another", day, e.now)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := ca.SignNode("edge-1", j.key.Public(), day, e.now())
	if err != nil {
		t.Fatal(err)
	}
	f := e.as(&join.Response{Certificate: string(forged), CA: string(e.trusted.Authority().Bundle())}, j.key)
	_, err = renew(f, "edge-1", j.key)
	wantRefusal(t, "with a certificate of another CA", err, "BadCertificate")
	if _, err := e.store.Revoke(t.Context(), "edge-1"); err != nil {
		t.Fatal(err)
	}
	e.reload()
	_, err = renew(next, "edge-1", j.key)
	wantRefusal(t, "a revoked one", err, "Revoked")
	e.add(98 * day)
	e.reload()
	_, err = renew(next, "edge-1", j.key)
	wantRefusal(t, "91 days after its end", err, "CertificateExpired")
}

func TestAThiefOfACertificateWithoutItsKeyGetsNothing(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	thief := e.as(&join.Response{Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: j.cert.Raw})),
		CA: string(e.trusted.Authority().Bundle())}, newKey(t))
	if _, err := thief.Renew(t.Context(), []byte(csr(t, "edge-1", j.key))); err == nil {
		t.Error("a certificate was renewed without its key")
	}
}

func TestANodeThatLeavesIsForgotten(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	if err := j.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.reload()
	e.add(2 * time.Second)
	_, err := j.Renew(t.Context(), []byte(csr(t, "edge-1", j.key)))
	wantRefusal(t, "renew after leaving", err, "Revoked")
	if len(e.nodes.removed) != 1 {
		t.Errorf("removed %v", e.nodes.removed)
	}
	// The name is free, for any machine, and in the very second of the revocation.
	e.add(-2 * time.Second)
	b, key := e.token("*", 1), newKey(t)
	r := e.request(b, "edge-1", key)
	r.Machine = strings.Repeat("f", 64)
	resp, err := e.client(b).Join(t.Context(), r)
	if err != nil {
		t.Fatalf("a second join: %v", err)
	}
	if _, err := e.as(resp, key).Node(t.Context()); err != nil {
		t.Errorf("its certificate is worth nothing: %v", err)
	}
}

func TestTheCAIsReplacedWithoutAnEdgeNoticing(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	before := e.token("edge-2", 1)
	if _, _, err := e.store.RotateCA(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	e.reload()
	// The edge knows the former CA only: it trusts CloudCore by it, and its certificate still counts.
	if _, err := j.Node(t.Context()); err != nil {
		t.Fatalf("an edge that knows the former CA only: %v", err)
	}
	resp, err := j.Renew(t.Context(), []byte(csr(t, "edge-1", j.key)))
	if err != nil {
		t.Fatal(err)
	}
	next := e.as(resp, j.key)
	if err := next.cert.CheckSignatureFrom(e.trusted.Authority().CA.Cert()); err != nil {
		t.Errorf("the new certificate is not from the new CA: %v", err)
	}
	if n := strings.Count(resp.CA, "BEGIN CERTIFICATE"); n != 2 {
		t.Errorf("the edge learned %d CAs, expected both", n)
	}
	key := newKey(t)
	if _, err := e.client(before).Join(t.Context(), e.request(before, "edge-2", key)); err != nil {
		t.Errorf("a token from before: %v", err)
	}
	if _, err := e.store.RetireCAs(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	e.reload()
	if _, err := next.Node(t.Context()); err != nil {
		t.Errorf("an edge that has renewed: %v", err)
	}
	if _, err := j.Node(t.Context()); err == nil {
		t.Error("a certificate of the retired CA still counts")
	}
}

// A CA's certificate is public: who stands in between shows it beside his own.
func TestAnInterceptorWithThePinnedCABesideHisOwnIsNotBelieved(t *testing.T) {
	e := newEnv(t)
	evil, err := pki.NewCA("evil", day, e.now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := evil.IssueServer([]string{pki.ServerName, "127.0.0.1"}, day)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	mux := http.NewServeMux()
	mux.HandleFunc(join.PathCA, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(append(evil.CertPEM(), e.trusted.Authority().Bundle()...))
	})
	mux.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path })
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	b := e.token("*", 1)
	c := &join.Client{Server: l.Addr().String(), Now: e.now}
	ca, err := c.CA(t.Context(), b.Pin)
	if err != nil {
		t.Fatal(err)
	}
	if c.Roots, err = join.NewStaticRoots(ca); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Join(t.Context(), e.request(b, "edge-1", newKey(t))); !errors.Is(err, pki.ErrUntrusted) {
		t.Errorf("the interceptor was asked to join: %v", err)
	}
	select {
	case p := <-asked:
		t.Errorf("the interceptor got the token, at %s", p)
	default:
	}
	_, err = c.CA(t.Context(), strings.Repeat("0", 64))
	if !errors.Is(err, join.ErrPin) {
		t.Errorf("a wrong pin: %v", err)
	}
}

func TestStrangersAreBounded(t *testing.T) {
	e := newEnv(t)
	b := e.token("*", 0)
	c, key := e.client(b), newKey(t)
	r := e.request(b, "edge-1", key)
	r.TokenSecret = strings.Repeat("a", 32)
	var last error
	for range addressBurst + 5 {
		_, last = c.Join(t.Context(), r)
	}
	wantRefusal(t, "guesses without end", last, "TooManyRequests")
	e.add(time.Minute)
	post := func(body io.Reader, path string) string {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: pki.ClientTLS(presenter{&tls.Certificate{}}, c.Roots, pki.ServerName, e.now)}}
		resp, err := client.Post("https://"+e.addr+path, "application/json", body)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(text))
	}
	for what, x := range map[string]struct {
		body []byte
		path string
		want string
	}{
		"a large body":      {bytes.Repeat([]byte("a"), join.MaxBody+1), join.PathJoin, "413"},
		"no JSON":           {[]byte("{"), join.PathJoin, "400"},
		"a list":            {[]byte("[]"), join.PathJoin, "400"},
		"a path of nothing": {nil, "/other", "404"},
		"a CA by POST":      {nil, join.PathCA, "405"},
	} {
		if got := post(bytes.NewReader(x.body), x.path); !strings.HasPrefix(got, x.want) {
			t.Errorf("%s: %.80s, expected %s", what, got, x.want)
		}
	}
	// A connection that says nothing is closed; hundreds from one address do not keep an honest edge out.
	stranger := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 300 {
		conn, err := stranger.DialContext(t.Context(), "tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	b2 := e.token("edge-9", 1)
	if _, err := c.Join(t.Context(), e.request(b2, "edge-9", newKey(t))); err != nil {
		t.Errorf("beside silent connections: %v", err)
	}
}
