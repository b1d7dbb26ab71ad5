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

	"github.com/tether-edge/tether/common/transport"
)

// dialTimeout bounds the way to a server on this machine.
const dialTimeout = 5 * time.Second

// maxPlain is the most that one record of TLS brings, in bytes.
const maxPlain = 1 << 14

// chunk is how many bytes are relayed at once. With transport.Wide, which has buffers of its own, a stream costs the edge
// 320 KiB beside its window.
const chunk = 64 << 10

// Tunnel relays streams to one kubelet.
type Tunnel struct {
	address string
	config  *tls.Config
	log     *slog.Logger
}

// New returns a Tunnel to the kubelet at address (host:port). config trusts its certificate and shows one that it accepts.
func New(address string, config *tls.Config, log *slog.Logger) *Tunnel {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	return &Tunnel{address: address, log: log, config: config}
}

// Serve relays one stream until either end closes it or ctx is done, and closes it.
func (t *Tunnel) Serve(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	kubelet, err := t.dial(ctx)
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
		_, _ = io.CopyBuffer(kubelet, stream, make([]byte, chunk)) // the end of either is the end of both
		_ = kubelet.Close()
	}()
	kubelet.relayTo(stream)
	_ = stream.Close()
	_ = kubelet.Close() // which may take nothing more, and what is written to it then never ends
	<-done
}

// kubelet is a connection to it.
type kubelet struct {
	*tls.Conn
	wide *transport.Wide
}

func (t *Tunnel) dial(ctx context.Context) (*kubelet, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	wide := transport.NewWide(conn)
	k := &kubelet{tls.Client(wide, t.config), wide}
	if err := k.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return k, nil
}

// relayTo writes what comes to w, as much at once as there is, until either ends.
func (k *kubelet) relayTo(w io.Writer) {
	buf := make([]byte, chunk)
	for {
		n, err := k.Read(buf)
		for err == nil && n <= len(buf)-maxPlain && k.wide.More() {
			var more int
			more, err = k.Read(buf[n:])
			n += more
		}
		if n > 0 {
			if _, e := w.Write(buf[:n]); e != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// unavailable is the HTTP answer of a kubelet that does not run: of a 503 kube-apiserver would drop the text, and kubectl
// before 1.36 drops one that is a map of YAML, "a: b", which it is not behind a quoted word.
func unavailable(err error) string {
	text := fmt.Sprintf("\"kubelet\" of this node does not answer: %v\n", err)
	return fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
}
