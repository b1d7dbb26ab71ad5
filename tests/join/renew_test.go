package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/cloud/issuer"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/edge/renew"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

type nodes struct{}

func (nodes) Ready(string) (bool, string)          { return true, "" }
func (nodes) Remove(context.Context, string) error { return nil }
func (nodes) Session(context.Context, string) (string, bool, error) {
	return "", false, nil
}
func (nodes) Joined(string, string)  {}
func (nodes) Refused(string, string) {}

// world is a join port and the files of a node that joined.
type world struct {
	t       *testing.T
	mu      sync.Mutex // guards at
	at      time.Time
	store   *trust.Store
	trusted *issuer.Trusted
	dir     string
	addr    string
	id      *pki.Identity
	roots   *pki.Authorities
}

func (w *world) now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.at }

// add sets the clock forward; CloudCore makes its own certificate anew meanwhile.
func (w *world) add(d time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	w.at = w.at.Add(d)
	w.mu.Unlock()
	if err := w.trusted.Load(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, at: time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC), dir: t.TempDir()}
	client, log := fake.NewClientset(), slog.New(slog.DiscardHandler)
	w.store = trust.New(client, w.now)
	w.trusted = issuer.NewTrusted(w.store, client, []string{"127.0.0.1"}, func() {}, log)
	w.add(0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	i := issuer.New(issuer.Config{Validity: 7 * day, Grace: 90 * day, MaxConnections: 16}, issuer.Deps{Listener: l, Trust: w.store, CA: w.trusted,
		Nodes: nodes{}, Log: log, Now: w.now, Registry: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	pair, err := w.trusted.Authority().CA.IssueNode("edge-1", 7*day)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(w.file("node.crt"), w.file("node.key")); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(w.file("ca.crt"), w.trusted.Authority().Bundle(), 0o644); err != nil {
		t.Fatal(err)
	}
	if w.id, err = pki.NewIdentity(w.file("node.crt"), w.file("node.key"), log); err != nil {
		t.Fatal(err)
	}
	if w.roots, err = pki.NewAuthorities(w.file("ca.crt"), log); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Record(t.Context(), trust.Identity{Node: "edge-1", Machine: strings.Repeat("0", 64)}, func(*trust.Identity) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) renewer(servers ...string) *renew.Renewer {
	return renew.New(renew.Config{Node: "edge-1", CertFile: w.file("node.crt"), CAFile: w.file("ca.crt"), Servers: servers},
		renew.Deps{Identity: w.id, Roots: w.roots, Log: slog.New(slog.DiscardHandler), Now: w.now, Registry: prometheus.NewRegistry()})
}

func (w *world) until() time.Time { return w.id.Certificate().Leaf.NotAfter }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestACertificateIsRenewedByItselfAtTwoThirdsOfItsLife(t *testing.T) {
	w := newWorld(t)
	first := w.until()
	key, err := os.ReadFile(w.file("node.key"))
	if err != nil {
		t.Fatal(err)
	}
	run := func(wait func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		r := w.renewer("127.0.0.1:1", w.addr) // one server is away
		go func() { done <- r.Start(ctx) }()
		wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if due := w.renewer().Due(); !due.Equal(w.now().Add(7 * day * 2 / 3)) {
		t.Errorf("due %s after its making", due.Sub(w.now()))
	}
	w.add(4*day + 18*time.Hour)
	run(func() { eventually(t, "it is renewed", func() bool { return w.until().After(first) }) })
	if got := w.until().Sub(w.now()); got < 7*day-time.Hour || got > 7*day {
		t.Errorf("the new one is valid for %s", got)
	}
	if after, err := os.ReadFile(w.file("node.key")); err != nil || string(after) != string(key) {
		t.Errorf("the key changed, %v", err)
	}
	// Months without a network: it has expired long ago.
	second := w.until()
	w.add(80 * day)
	run(func() { eventually(t, "it is renewed", func() bool { return w.until().After(second) }) })
}

func TestARenewalTakesUpANewCA(t *testing.T) {
	w := newWorld(t)
	if _, _, err := w.store.RotateCA(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.add(0)
	if err := w.renewer(w.addr).Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.RetireCAs(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.add(0)
	if err := w.renewer(w.addr).Renew(t.Context()); err != nil {
		t.Errorf("after the former CA was retired: %v", err)
	}
	if certs, err := pki.ReadCertificates(w.file("ca.crt")); err != nil || len(certs) != 1 {
		t.Errorf("the edge trusts %d CAs, %v; expected the new one alone", len(certs), err)
	}
}

// An edge that was away while the CA was replaced again and again knows the first one alone. One that renewed in between
// knows the second.
func TestARenewalAfterSeveralRotations(t *testing.T) {
	for _, between := range []bool{false, true} {
		w := newWorld(t)
		for i := range 3 {
			if _, _, err := w.store.RotateCA(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			w.add(time.Hour)
			if i == 0 && between {
				if err := w.renewer(w.addr).Renew(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.renewer(w.addr).Renew(t.Context()); err != nil {
			t.Errorf("after three rotations, renewed after the first: %t: %v", between, err)
		}
		if _, err := w.store.RetireCAs(t.Context(), false); err != nil {
			t.Errorf("after it has renewed, renewed before: %t: %v", between, err)
		}
	}
}

func TestAnAnswerThatIsNotThisNodesChangesNothing(t *testing.T) {
	w := newWorld(t)
	for name, answer := range map[string]func() join.Response{
		"another node": func() join.Response {
			p, err := w.trusted.Authority().CA.IssueNode("edge-2", day)
			if err != nil {
				t.Fatal(err)
			}
			return join.Response{Certificate: string(p.Cert), CA: string(w.trusted.Authority().Bundle())}
		},
		"no certificate": func() join.Response { return join.Response{CA: string(w.trusted.Authority().Bundle())} },
		"no CA": func() join.Response {
			return join.Response{Certificate: string(pemOf(w.id.Certificate().Leaf))}
		},
	} {
		before := w.until()
		if err := w.renewer(serve(t, w, func(*http.Request) any { return answer() })).Renew(t.Context()); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if !w.until().Equal(before) {
			t.Errorf("%s: the certificate changed", name)
		}
	}
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// serve is a CloudCore that gives these answers.
func serve(t *testing.T, w *world, answer func(*http.Request) any) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Time: w.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.trusted.Certificate(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(rw).Encode(answer(r)) })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return l.Addr().String()
}
