package edgecore

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// clockFunc adapts a func to the packages' one-method clocks.
type clockFunc func() time.Time

func (c clockFunc) Now() time.Time { return c() }

// kubeletTransport reaches the kubelet's own server at address, whatever host a request names.
func kubeletTransport(address string, config *tls.Config) *http.Transport {
	return &http.Transport{
		// Without HTTP/2: what is upgraded needs a connection of its own.
		TLSClientConfig: config, DisableCompression: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: 10 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		},
	}
}

// kubeletServer is the kubelet, which is made after who asks it.
type kubeletServer struct{ e *EdgeCore }

func (s kubeletServer) Serve(ctx context.Context, c net.Conn) error { return s.e.kubelet.Serve(ctx, c) }
