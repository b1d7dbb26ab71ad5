package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kubeletFor serves as a kubelet does, and returns a tunnel to it.
func kubeletFor(t *testing.T, handler http.HandlerFunc) *Tunnel {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return New(server.Listener.Addr().String(), &tls.Config{RootCAs: roots}, slog.New(slog.DiscardHandler))
}

func serve(t *testing.T, tunnel *Tunnel) (cloud net.Conn, ended chan struct{}) {
	t.Helper()
	cloud, edge := net.Pipe()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		tunnel.Serve(context.Background(), edge)
	}()
	t.Cleanup(func() {
		_ = cloud.Close()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the stream outlives its caller")
		}
	})
	return cloud, ended
}

func TestAStreamReachesTheKubelet(t *testing.T) {
	body := strings.Repeat("all that a log may say\n", 50_000)
	tunnel := kubeletFor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, body)
	})
	cloud, _ := serve(t, tunnel)
	if _, err := io.WriteString(cloud, "GET /logs HTTP/1.1\r\nHost: kubelet\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(cloud)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") || len(answer) < len(body) {
		t.Errorf("the answer has %d bytes: %v", len(answer), err)
	}
}

// TestAStreamEndsWithItsCaller, also where the kubelet takes nothing more of what was written to it.
func TestAStreamEndsWithItsCaller(t *testing.T) {
	hung, over := make(chan struct{}), make(chan struct{})
	tunnel := kubeletFor(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		close(hung)
		for { // talks, and does not listen
			if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
				break
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	t.Cleanup(func() { close(over) })
	cloud, ended := serve(t, tunnel)
	go func() {
		_, _ = io.WriteString(cloud, "POST /exec HTTP/1.1\r\nHost: kubelet\r\nContent-Length: 1000000000\r\n\r\n")
		for {
			if _, err := cloud.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	<-hung
	_ = cloud.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = io.Copy(io.Discard, cloud) // until both directions are full
	_ = cloud.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it has not ended after 10 s")
	}
}

// TestAKubeletThatIsAwayIsSaid in words that kubectl before 1.36 shows, too: it reads them as YAML, and shows nothing of a map.
func TestAKubeletThatIsAwayIsSaid(t *testing.T) {
	tunnel := kubeletFor(t, nil)
	tunnel.address = "127.0.0.1:1"
	cloud, _ := serve(t, tunnel)
	answer, err := io.ReadAll(cloud)
	if err != nil {
		t.Fatal(err)
	}
	head, text, _ := strings.Cut(string(answer), "\r\n\r\n")
	var m map[string]any
	if !strings.HasPrefix(head, "HTTP/1.1 502 ") || !strings.Contains(text, "does not answer: dial tcp 127.0.0.1:1") || yaml.Unmarshal([]byte(text), &m) == nil {
		t.Errorf("the answer is %q", answer)
	}
}
