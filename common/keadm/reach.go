package keadm

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tether-edge/tether/common/join"
)

// maxSkew is how far the clocks may be apart.
const maxSkew = time.Minute

// cloud asks each CloudCore whether it is there and what time it is there.
func (p *preflight) cloud(ctx context.Context, add adder) {
	reached := false
	for _, server := range p.ports.servers {
		host, _, _ := net.SplitHostPort(server)
		// A proxy looks names up itself.
		if proxied, err := p.ports.proxy.For(server); net.ParseIP(host) == nil && (err != nil || !proxied) {
			rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := net.DefaultResolver.LookupHost(rctx, host)
			cancel()
			if err != nil {
				add(false, "dns", fmt.Sprintf("%s has no address: %v", host, err), "correct /etc/resolv.conf, or name CloudCore by its address")
				continue
			}
		}
		there, err := p.askTimeLong(ctx, server)
		if err != nil {
			add(false, "cloud", fmt.Sprintf("%s does not answer: %v", server, err), "open that port (and the WebSocket port) in firewalls between here and there; --certport names another join port")
			continue
		}
		reached = true
		if skew := p.now().Sub(there); skew > maxSkew || skew < -maxSkew {
			add(true, "time", fmt.Sprintf("this machine's clock is %s off %s's", skew.Round(time.Second), host), "set it, and keep it set (chrony, systemd-timesyncd): certificates are judged by it")
		}
	}
	if !reached && len(p.ports.servers) > 0 {
		add(true, "no-cloud", "no CloudCore answers at its join port", "see above; certificates cannot be had or renewed so")
	}
}

// askTimeLong gives a network that loses packets three tries, and one that answers nothing not too much time.
func (p *preflight) askTimeLong(ctx context.Context, server string) (there time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for range 3 {
		if there, err = p.askTime(ctx, server); err == nil || ctx.Err() != nil {
			break
		}
	}
	return there, err
}

// askTime returns what time it is at a join port, by its Date header. It proves nothing and needs no trust.
func (p *preflight) askTime(ctx context.Context, server string) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+join.PathCA, nil)
	if err != nil {
		return time.Time{}, err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: p.ports.through,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}}
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	return http.ParseTime(resp.Header.Get("Date"))
}

func (p *preflight) proxy(add adder) {
	for _, server := range p.ports.servers {
		if u, err := p.ports.through(&http.Request{URL: &url.URL{Scheme: "https", Host: server}}); err == nil && u != nil {
			add(false, "proxy", fmt.Sprintf("the proxy %s is used for %s, by edgecore too", u.Redacted(), server),
				"put CloudCore into NO_PROXY if it is reached directly, or join with --set cloud.proxy=none")
			return
		}
	}
}
