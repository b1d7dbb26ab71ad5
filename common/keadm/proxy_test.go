package keadm

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

// joinPort is a CloudCore's join port that says yes to everything.
func joinPort(t *testing.T, ca *pki.CA) string {
	t.Helper()
	return joinPortWith(t, ca, "/none", nil)
}

// joinPortWith has another answer at one path.
func joinPortWith(t *testing.T, ca *pki.CA, path string, handler http.HandlerFunc) string {
	t.Helper()
	answer := func(value any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(value) }
	}
	answers := map[string]http.HandlerFunc{
		join.PathCA:    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(ca.CertPEM()) },
		join.PathJoin:  answer(join.Response{Certificate: "certificate"}),
		join.PathNode:  answer(join.State{Ready: true}),
		join.PathLeave: answer(nil),
	}
	answers[path] = handler
	mux := http.NewServeMux()
	for path, h := range answers {
		if h != nil {
			mux.HandleFunc(path, h)
		}
	}
	pair, err := ca.IssueServer([]string{pki.ServerName}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// connectProxy is an HTTP proxy that knows CONNECT and leads everywhere to one address. It notes what it was asked for.
type connectProxy struct {
	*httptest.Server
	target string

	mu    sync.Mutex // guards asked
	asked []string
}

func newConnectProxy(t *testing.T, target string) *connectProxy {
	t.Helper()
	p := &connectProxy{target: target}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, strings.Join([]string{r.Method, r.Host, r.Header.Get("Proxy-Authorization")}, " "))
	p.mu.Unlock()
	far, err := net.Dial("tcp", p.target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	_, _ = near.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	go func() { _, _ = io.Copy(far, buffered); _ = far.Close() }()
	_, _ = io.Copy(near, far)
}

func (p *connectProxy) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.asked = nil }()
	return p.asked
}

// node gives a node its files.
func node(t *testing.T, ca *pki.CA, name string, life time.Duration) edgeFiles {
	t.Helper()
	dir := t.TempDir()
	files := edgeFiles{config: filepath.Join(dir, "edgecore.yaml"), data: filepath.Join(dir, "data"), pki: filepath.Join(dir, "pki")}
	pair, err := ca.IssueNode(name, life)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(files.cert(), files.key()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.ca(), ca.CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	return files
}

func newCA(t *testing.T, now pki.Clock) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", 365*24*time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Nothing but the proxy knows the name of this cloud.
func TestEachRequestToAJoinPortGoesThroughTheProxy(t *testing.T) {
	ca := newCA(t, time.Now)
	proxy := newConnectProxy(t, joinPort(t, ca))
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.Cloud.Servers = []string{"cloud.invalid:10000"}
	cfg.Cloud.Proxy = "http://user:secret@" + proxy.Listener.Addr().String()
	ports, err := joinPortsOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := IO{Out: &out, Err: &out, Now: time.Now}
	f := joinFlags{edgeFiles: node(t, ca, "edge-1", time.Hour), name: "edge-1", timeout: 10 * time.Second}
	cfg.Cloud.CertFile, cfg.Cloud.KeyFile, cfg.Cloud.CAFile = f.cert(), f.key(), f.ca()
	for name, ask := range map[string]func() error{
		"join": func() error {
			resp, err := f.ask(t.Context(), w, ports, trust.Bearer{Pin: pki.Pin(ca.Cert())}, nil, "")
			if err == nil && resp.Certificate != "certificate" {
				t.Errorf("join: %+v", resp)
			}
			return err
		},
		"wait until the node is ready": func() error { return f.waitReady(t.Context(), w, nil, cfg, ports) },
		"leave":                        func() error { return (&edgeReset{w: w, cfg: cfg}).leave(t.Context()) },
		"preflight": func() error {
			p := &preflight{now: time.Now, ports: ports}
			p.cloud(t.Context(), func(_ bool, name, found, _ string) { t.Errorf("preflight finds %s: %s", name, found) })
			return nil
		},
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
		asked := proxy.take()
		if len(asked) == 0 || slices.ContainsFunc(asked, func(s string) bool { return s != "CONNECT cloud.invalid:10002 Basic dXNlcjpzZWNyZXQ=" }) {
			t.Errorf("%s asked the proxy for %q", name, asked)
		}
	}
}

// To join.Client no proxy at all means the environment's.
func TestNoProxyIsNotTheEnvironments(t *testing.T) {
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.Cloud.Proxy = "none"
	ports, err := joinPortsOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	through := ports.client("a:1", time.Now).Proxy
	if through == nil {
		t.Fatal("a client without a proxy of its own takes the environment's")
	}
	if u, err := through(&http.Request{URL: &url.URL{Scheme: "https", Host: "a:1"}}); u != nil || err != nil {
		t.Errorf("none leads through %v, %v", u, err)
	}
}

func TestThePreflightNamesTheProxyWithoutItsPassword(t *testing.T) {
	_, p := sound(t)
	p.config.Cloud.Servers, p.config.Cloud.Proxy = []string{"cloud.invalid:10000"}, "http://user:secret@proxy.invalid:3128"
	var err error
	if p.ports, err = joinPortsOf(p.config); err != nil {
		t.Fatal(err)
	}
	var found []string
	p.proxy(func(_ bool, name, what, _ string) { found = append(found, name+" "+what) })
	if len(found) != 1 || !strings.Contains(found[0], "proxy.invalid:3128") || strings.Contains(found[0], "secret") {
		t.Errorf("found %q", found)
	}
}
