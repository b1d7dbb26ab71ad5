package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keepAlives asks for nothing, again and again, over connections that are kept: from two addresses, which together may hold
// every place, and with the certificate of a node. For each connection that ends there is another.
func keepAlives(revoked bool) flood {
	return func(t *testing.T, w *world) (stop func(), own int) {
		const connections = 24 // of each address
		config := w.clientTLS("evil")
		if revoked {
			w.revoked.Store("evil", true)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var rounds atomic.Int64
		var wg sync.WaitGroup
		for i := range 2 * connections {
			dialer := &tls.Dialer{Config: config, NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%2))}, Timeout: time.Second}}
			wg.Go(func() {
				for pause := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; <-pause.C {
					if c, err := dialer.DialContext(ctx, "tcp", w.addr); err == nil {
						askOn(ctx, c, &rounds)
						_ = c.Close()
					}
				}
			})
		}
		eventually(t, "the flood has begun", func() bool { return rounds.Load() > 2*connections })
		return func() { cancel(); wg.Wait() }, 2 * connections
	}
}

// askOn asks again as long as the connection lives, and counts.
func askOn(ctx context.Context, c net.Conn, rounds *atomic.Int64) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	answers := bufio.NewReader(c)
	for pause := time.NewTicker(100 * time.Millisecond); ; <-pause.C {
		rounds.Add(1)
		if _, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
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
