package cluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// DialContext opens a connection from inside the host's network. The address must be an IP address and a port, since
// a name would be looked up by another thread, outside.
func (h *EdgeHost) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	hostPart, _, err := net.SplitHostPort(address)
	if err != nil || net.ParseIP(hostPart) == nil {
		return nil, fmt.Errorf("dial from edge host %s: expected an IP address and a port, found %q", h.name, address)
	}
	var conn net.Conn
	err = h.Inside(false, func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from edge host %s: %w", h.name, err)
	}
	return conn, nil
}

// Listen opens a listener inside the host's network.
func (h *EdgeHost) Listen(network, address string) (net.Listener, error) {
	var listener net.Listener
	err := h.Inside(false, func() error {
		var err error
		listener, err = net.Listen(network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on edge host %s: %w", h.name, err)
	}
	return listener, nil
}

// HTTPClient is a client whose connections start inside the host's network: it reaches pods by their addresses. It
// keeps no connection, so that each request shows whether the server is there now.
func (h *EdgeHost) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}}
}

// Get fetches a URL from inside the host's network and returns the body; any status but 200 is an error.
func (h *EdgeHost) Get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	response, err := h.HTTPClient(5 * time.Second).Do(request)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("get %s: expected status 200, found %s: %s", url, response.Status, body)
	}
	return string(body), nil
}
