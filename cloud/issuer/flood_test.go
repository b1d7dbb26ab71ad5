package issuer

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/join"
)

// Two addresses together may hold every place. None of their connections keeps its own by asking again and again.
func TestAFloodOfQuestionsFromTwoAddressesKeepsNoHonestEdgeOut(t *testing.T) {
	const connections = 24 // of each address; newEnv has 16 places
	e := newEnv(t)
	b := e.token("*", 0)
	c := e.client(b)
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	for i := range 2 * connections {
		dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true},
			NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%2))}, Timeout: time.Second}}
		wg.Go(func() {
			for pause := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; <-pause.C {
				if conn, err := dialer.DialContext(ctx, "tcp", e.addr); err == nil {
					askOn(ctx, conn, &asked)
					_ = conn.Close()
				}
			}
		})
	}
	for wait := time.NewTicker(5 * time.Millisecond); asked.Load() < 2*connections; <-wait.C {
		if t.Context().Err() != nil {
			t.Fatal("the flood did not begin")
		}
	}
	for range 3 {
		began := time.Now()
		if _, err := c.Join(t.Context(), e.request(b, "edge-1", newKey(t))); err != nil {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
	}
}

// Any number of addresses may take all that strangers may ask in a second. Nodes are none.
func TestStrangersDoNotKeepANodeFromItsRenewal(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	for i := range 2 * totalBurst {
		e.issuer.limits.take(fmt.Sprintf("[2001:db8:%x::1]:1", i), func() bool { return false })
	}
	_, err := e.tryJoin(newKey(t), "*", false)
	wantRefusal(t, "a stranger among very many", err, "TooManyRequests")
	if _, err := j.Renew(t.Context(), []byte(csr(t, "edge-1", j.key))); err != nil {
		t.Errorf("a node among very many strangers: %v", err)
	}
	var last error
	for range addressBurst {
		_, last = j.Renew(t.Context(), []byte(csr(t, "edge-1", j.key)))
	}
	wantRefusal(t, "a node that asks without end", last, "TooManyRequests")
}

// askOn asks for the CA as long as the connection lives, and counts.
func askOn(ctx context.Context, c net.Conn, asked *atomic.Int64) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	answers := bufio.NewReader(c)
	for pause := time.NewTicker(100 * time.Millisecond); ; <-pause.C {
		asked.Add(1)
		if _, err := io.WriteString(c, "GET "+join.PathCA+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}
