// Package tunnel is the edge's end of kubectl logs, exec and the rest: it relays each stream that the cloud opens to the
// kubelet's own server on loopback.
//
// It promises that a stream reaches the kubelet and nothing else, with a certificate that only this process holds; that
// who may ask was judged in the cloud, by cloud/tunnel; and that a kubelet that is away is said in the answer. edge/link
// accepts the streams.
package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// dialTimeout bounds the way to a server on this machine.
const dialTimeout = 5 * time.Second

// Tunnel relays streams to one kubelet.
type Tunnel struct {
	address string
	dialer  tls.Dialer
	log     *slog.Logger
}

// New returns a Tunnel to the kubelet at address (host:port). config trusts its certificate and shows one that it accepts.
func New(address string, config *tls.Config, log *slog.Logger) *Tunnel {
	return &Tunnel{address: address, log: log, dialer: tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: config}}
}

// Serve relays one stream until either end closes it or ctx is done, and closes it.
func (t *Tunnel) Serve(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	kubelet, err := t.dialer.DialContext(ctx, "tcp", t.address)
	if err != nil {
		if ctx.Err() == nil {
			t.log.Info("the cloud asks for the kubelet, which does not answer", "error", err)
			_, _ = io.WriteString(stream, unavailable(err)) // a cloud that is gone needs no answer
		}
		return
	}
	defer kubelet.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close(); _ = kubelet.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(kubelet, stream) // the end of either is the end of both
		_ = kubelet.Close()
	}()
	_, _ = io.Copy(stream, kubelet)
	_ = stream.Close()
	<-done
}

// unavailable is the HTTP answer of a kubelet that does not run: of a 503 kube-apiserver would drop the text.
func unavailable(err error) string {
	text := fmt.Sprintf("the kubelet on this node does not answer: %v\n", err)
	return fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
}
