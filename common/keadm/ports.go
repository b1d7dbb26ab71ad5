package keadm

import (
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
)

// joinPorts are the join ports of a node's CloudCores and the way to them, as edgecore's configuration has it.
type joinPorts struct {
	servers []string // host:port
	proxy   transport.Proxy
}

func joinPortsOf(cfg *v1alpha1.EdgeCore) (*joinPorts, error) {
	proxy, err := transport.ParseProxy(cfg.Cloud.Proxy)
	if err != nil {
		return nil, err
	}
	return &joinPorts{joinServers(cfg.Cloud.Servers, cfg.Cloud.JoinPort), proxy}, nil
}

// client talks to one of them as nobody.
func (p *joinPorts) client(server string, now pki.Clock) *join.Client {
	return &join.Client{Server: server, Now: now, Proxy: p.through}
}

// through is the proxy as a func that is never nil, which to join.Client would mean the environment's.
func (p *joinPorts) through(r *http.Request) (*url.URL, error) {
	if p.proxy == nil {
		return nil, nil
	}
	return p.proxy(r)
}

// joinServers are the join ports of CloudCores.
func joinServers(servers []string, port int) []string {
	var out []string
	for _, s := range servers {
		host, _, _ := net.SplitHostPort(s)
		out = append(out, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	return out
}

// environmentProxy is the proxy that the environment names for a CloudCore; nil for none.
func environmentProxy(servers []string, certPort int) *url.URL {
	for _, server := range joinServers(servers, certPort) {
		if u, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: server}}); err == nil && u != nil {
			return u
		}
	}
	return nil
}
