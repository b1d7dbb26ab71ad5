// Package tunnel is the edge's end of kubectl logs, exec and the rest: it gives each stream that the cloud opens to the
// kubelet's own server, within the process.
//
// It promises that a stream reaches the kubelet and nothing else; that who may ask was judged in the cloud, by
// cloud/tunnel; and that a kubelet that is away is said in the answer. edge/link accepts the streams, edge/kubelet serves
// them.
package tunnel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
)

// Kubelet is the kubelet's own server.
type Kubelet interface {
	// Serve answers the requests on c until that is closed, and closes it when ctx is done. An error says that it does not
	// answer, and that nothing was read or written.
	Serve(ctx context.Context, c net.Conn) error
}

// Tunnel gives streams to one kubelet.
type Tunnel struct {
	kubelet Kubelet
	log     *slog.Logger
}

// New returns a Tunnel to a kubelet.
func New(kubelet Kubelet, log *slog.Logger) *Tunnel { return &Tunnel{kubelet: kubelet, log: log} }

// Serve has one stream served until either end closes it or ctx is done, and closes it.
func (t *Tunnel) Serve(ctx context.Context, stream net.Conn) {
	g := newGatherer(stream)
	ended := context.AfterFunc(ctx, func() { g.end(ctx.Err()) })
	defer ended()
	if err := t.kubelet.Serve(ctx, g); err != nil && ctx.Err() == nil { // a cloud that is gone needs no answer
		t.log.Info("the cloud asks for the kubelet, which does not answer", "error", err)
		_, _ = io.WriteString(g, unavailable(err))
	}
	_ = g.Close()
	<-g.gone
}

// unavailable is the HTTP answer of a kubelet that does not run: of a 503 kube-apiserver would drop the text, and kubectl
// before 1.36 drops one that is a map of YAML, "a: b", which it is not behind a quoted word.
func unavailable(err error) string {
	text := fmt.Sprintf("\"kubelet\" of this node does not answer: %v\n", err)
	return fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
}
