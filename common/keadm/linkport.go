package keadm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// linkWait is how long a port for the link is waited for.
const linkWait = 10 * time.Second

// link tries the port of each CloudCore at which edgecore is to connect: a join that gets through beside it makes a node
// that never becomes Ready.
func (p *preflight) link(ctx context.Context, add adder) {
	if p.config.Cloud.Protocol == v1alpha1.ProtocolQUIC {
		return // see udp
	}
	var silent []string
	for _, server := range p.config.Cloud.Servers {
		if err := p.speaksTLS(ctx, server); err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", server, err))
		}
	}
	if len(silent) == 0 {
		return
	}
	alone := p.config.Cloud.Protocol == v1alpha1.ProtocolWebSocket
	add(alone && len(silent) == len(p.config.Cloud.Servers), "link", "no answer at the port for the link: "+strings.Join(silent, "; "),
		"open that port in firewalls between here and there, or name CloudCore's with --cloudcore-ipport")
}

// speaksTLS returns nil if a server of TLS answers at host:port, whatever it thinks of us.
func (p *preflight) speaksTLS(ctx context.Context, server string) error {
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/", nil)
	if err != nil {
		return err
	}
	greeted := false
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: p.ports.through, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // nothing is believed that it says
		VerifyConnection:   func(tls.ConnectionState) error { greeted = true; return nil }}}}
	response, err := client.Do(request)
	if response != nil {
		_ = response.Body.Close()
	}
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case err == nil, greeted, errors.As(err, &alert):
		return nil // it wants a certificate, which there is none of yet
	case errors.As(err, &op):
		return op
	}
	return err
}
