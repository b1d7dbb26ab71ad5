package keadm

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func TestThePortForTheLinkIsTried(t *testing.T) {
	// As a hub: whoever shows no certificate is sent away within the handshake.
	hub := httptest.NewUnstartedServer(http.NotFoundHandler())
	hub.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	hub.StartTLS()
	defer hub.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts, as a firewall may, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	there, silent, closed := hub.Listener.Addr().String(), mute.Addr().String(), "127.0.0.1:1"
	for name, c := range map[string]struct {
		servers      []string
		protocol     v1alpha1.Protocol
		found, error bool
	}{
		"a hub that answers":           {[]string{there}, v1alpha1.ProtocolWebSocket, false, false},
		"a closed port":                {[]string{closed}, v1alpha1.ProtocolWebSocket, true, true},
		"a port that says nothing":     {[]string{silent}, v1alpha1.ProtocolWebSocket, true, true},
		"one of two":                   {[]string{closed, there}, v1alpha1.ProtocolWebSocket, true, false},
		"where QUIC may do":            {[]string{closed}, v1alpha1.ProtocolAuto, true, false},
		"where it is not used nothing": {[]string{closed}, v1alpha1.ProtocolQUIC, false, false},
	} {
		_, p := sound(t)
		p.config.Cloud.Servers, p.config.Cloud.Protocol = c.servers, c.protocol
		var got *finding
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		p.link(ctx, func(isError bool, name, found, remedy string) {
			got = &finding{Name: name, Error: isError, Found: found, Remedy: remedy}
		})
		cancel()
		if (got != nil) != c.found || got != nil && (got.Error != c.error || got.Name != "link" || got.Remedy == "" || !strings.Contains(got.Found, "127.0.0.1:")) {
			t.Errorf("%s: found %+v", name, got)
		}
	}
}
