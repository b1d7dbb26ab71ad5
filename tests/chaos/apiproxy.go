package chaos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// apiTrouble is what CloudCore sees of the API server.
type apiTrouble struct {
	// gone: no connection is answered.
	gone bool
	// slow is how long each request waits.
	slow time.Duration
	// withheld is how long the lists of what is given to pods and of devices wait, while all else is answered.
	withheld time.Duration
	// busy: every request but a watch is answered with 429. expired: every watch is answered with 410.
	busy, expired bool
}

// apiProxy stands between the CloudCores and the API server. It passes on who asks.
type apiProxy struct {
	server   *http.Server
	listener net.Listener

	mu      sync.Mutex
	trouble apiTrouble
	conns   map[net.Conn]http.ConnState
	// watches are the watches that are open, to be ended.
	watches map[int]context.CancelFunc
	next    int
}

// newAPIProxy starts one. cert is what it shows to clients.
func newAPIProxy(target *rest.Config, cert tls.Certificate) (*apiProxy, error) {
	to, err := url.Parse(target.Host)
	if err != nil {
		return nil, fmt.Errorf("the API server's address: %w", err)
	}
	transport, err := rest.TransportFor(&rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{CAData: target.CAData, CAFile: target.CAFile}})
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	p := &apiProxy{conns: map[net.Conn]http.ConnState{}, watches: map[int]context.CancelFunc{}}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("stand between CloudCore and the API server: %w", err)
	}
	quiet := log.New(discard{}, "", 0)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: transport, FlushInterval: -1, ErrorLog: quiet}
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: quiet, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, forward) }), ConnState: p.state}
	go func() { _ = p.server.ServeTLS(p.listener, "", "") }() // it ends with close
	return p, nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (p *apiProxy) close() { _ = p.server.Close() }

// state notes the connections, and ends new ones while the API server is gone.
func (p *apiProxy) state(c net.Conn, s http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s == http.StateClosed || s == http.StateHijacked {
		delete(p.conns, c)
		return
	}
	p.conns[c] = s
	if p.trouble.gone {
		_ = c.Close()
	}
}

// set changes how the API server looks; what is under way notices it.
func (p *apiProxy) set(t apiTrouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = t
	if t.gone {
		for c := range p.conns {
			_ = c.Close()
		}
	}
	if t.expired {
		for _, end := range p.watches {
			end()
		}
	}
}

func (p *apiProxy) serve(w http.ResponseWriter, r *http.Request, forward http.Handler) {
	watch := r.URL.Query().Get("watch") != ""
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.mu.Lock()
	t := p.trouble
	id := p.next
	p.next++
	if watch {
		p.watches[id] = cancel
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watches, id)
	}()
	wait := t.slow
	if withholdable[r.URL.Path] {
		wait += t.withheld
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
	switch {
	case t.busy && !watch:
		w.Header().Set("Retry-After", "1")
		answer(w, metav1.Status{Reason: metav1.StatusReasonTooManyRequests, Code: http.StatusTooManyRequests, Message: "too many requests, please try again later"})
	case t.expired && watch:
		answer(w, metav1.Status{Reason: metav1.StatusReasonExpired, Code: http.StatusGone, Message: "The resourceVersion for the provided watch is too old."})
	default:
		forward.ServeHTTP(w, r.WithContext(ctx))
	}
}

// withholdable are lists that nothing else waits for: a CloudCore lists pods before all others.
var withholdable = map[string]bool{"/api/v1/configmaps": true, "/api/v1/secrets": true, "/apis/" + v1beta1.GroupVersion.String() + "/devices": true}

func answer(w http.ResponseWriter, s metav1.Status) {
	s.TypeMeta, s.Status = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, metav1.StatusFailure
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.Code))
	_ = json.NewEncoder(w).Encode(s) // the client may be gone
}

// redirect writes a kubeconfig of the same user whose server is the proxy.
func (p *apiProxy) redirect(from, to string, ca []byte) error {
	k, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return fmt.Errorf("read CloudCore's kubeconfig: %w", err)
	}
	for name := range k.Clusters {
		k.Clusters[name] = &clientcmdapi.Cluster{Server: "https://" + p.listener.Addr().String(), CertificateAuthorityData: ca}
	}
	if err := clientcmd.WriteToFile(*k, to); err != nil {
		return fmt.Errorf("write CloudCore's kubeconfig: %w", err)
	}
	return nil
}
