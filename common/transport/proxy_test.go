package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxyFor is an HTTP proxy that knows CONNECT and wants credentials. It returns its address and how often it was used.
func proxyFor(t *testing.T) (address string, used *atomic.Int64) {
	t.Helper()
	used = &atomic.Int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Close of the server does not wait for a handler whose connection was hijacked.
	var tunnels sync.WaitGroup
	var handling sync.RWMutex
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handling.RLock()
		defer handling.RUnlock()
		user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		if r.Method != http.MethodConnect || user != "u" || password != "p" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		used.Add(1)
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			tunnels.Go(func() { _, _ = io.Copy(way[0], way[1]); _ = way[0].Close() })
		}
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		handling.Lock()
		defer handling.Unlock()
		tunnels.Wait()
	})
	return l.Addr().String(), used
}

// Who dials hears when the hub took the connection, not only the proxy, and may give it up before it has said anything.
func TestAnAttemptMayBeGivenUpAsItArrives(t *testing.T) {
	s := serve(t, nil)
	address, used := proxyFor(t)
	config := s.tls(s.node("edge-1", 30*day))
	proxy, err := ParseProxy("http://u:p@" + address)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough of them")
	for name, proxy := range map[string]Proxy{"directly": nil, "through a proxy": proxy} {
		through := int64(0)
		if proxy != nil {
			through = 1
		}
		before, calls := used.Load(), 0
		ctx := WithArrival(t.Context(), func() error {
			if calls++; used.Load() != before+through {
				t.Errorf("%s: the proxy was used %d times when the hub took the connection, want %d", name, used.Load()-before, through)
			}
			return enough
		})
		if _, err := DialThrough(ctx, proxy, s.addr, config); !errors.Is(err, enough) || errors.Is(err, ErrRefused) || calls != 1 {
			t.Errorf("%s: %v after %d calls, want what was said", name, err, calls)
		}
	}
	// The hub takes the next.
	client, err := Dial(WithArrival(t.Context(), func() error { return nil }), s.addr, config)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = client.Close(), (<-s.streams).Close()
	select {
	case <-s.streams:
		t.Error("the hub has a stream of one that was given up")
	default:
	}
}

func TestALinkGoesThroughAProxy(t *testing.T) {
	s := serve(t, nil)
	address, used := proxyFor(t)
	config := s.tls(s.node("edge-1", 30*day))
	proxy, err := ParseProxy("http://u:p@" + address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client, err := DialThrough(ctx, proxy, s.addr, config)
	if err != nil {
		t.Fatal(err)
	}
	far := <-s.streams
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "hello" || used.Load() != 1 {
		t.Errorf("got %q, %v, through the proxy %d times", b, err, used.Load())
	}
	_, _ = client.Close(), far.Close()
	wrong, err := ParseProxy("http://u:wrong@" + address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DialThrough(ctx, wrong, s.addr, config); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v; expected an error that does not show it", err)
	}
	for _, bad := range []string{"proxy", "socks4://a", "http://", "http://u:secret@\x7f", "http://a/path"} {
		if _, err := ParseProxy(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("ParseProxy(%q): %v", bad, err)
		}
	}
	if p, err := ParseProxy("none"); p != nil || err != nil {
		t.Errorf("none: %v", err)
	}
}
