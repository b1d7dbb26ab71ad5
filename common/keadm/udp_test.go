package keadm

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/transport"
)

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// answering returns the port of a server that answers the nth packet with what answer returns; nil is silence.
func answering(t *testing.T, answer func(n int, packet []byte) []byte) int {
	l := listenUDP(t)
	go func() {
		for n, buf := 0, make([]byte, 2048); ; n++ {
			size, from, err := l.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if a := answer(n, buf[:size]); a != nil {
				_, _ = l.WriteToUDP(a, from)
			}
		}
	}()
	return l.LocalAddr().(*net.UDPAddr).Port
}

// negotiation is a server's answer to a packet of a version that it does not know.
func negotiation(p []byte) []byte {
	destination := p[6 : 6+p[5]]
	source := p[7+p[5]:][:p[6+p[5]]]
	out := []byte{0xff, 0, 0, 0, 0, byte(len(source))}
	out = append(out, source...)
	out = append(append(out, byte(len(destination))), destination...)
	return append(out, 0, 0, 0, 1)
}

func TestPreflightAsksOverUDPWhereQUICIsWanted(t *testing.T) {
	server := func(n int, p []byte) []byte { return negotiation(p) }
	silent := func(int, []byte) []byte { return nil }
	for name, c := range map[string]struct {
		protocol v1alpha1.Protocol
		answer   func(int, []byte) []byte
		found    bool
		error    bool
	}{
		"websocket asks nobody":                    {v1alpha1.ProtocolWebSocket, silent, false, false},
		"auto with an answer":                      {v1alpha1.ProtocolAuto, server, false, false},
		"auto without: a note":                     {v1alpha1.ProtocolAuto, silent, true, false},
		"quic with an answer":                      {v1alpha1.ProtocolQUIC, server, false, false},
		"quic without: an error":                   {v1alpha1.ProtocolQUIC, silent, true, true},
		"quic whose first packet is lost":          {v1alpha1.ProtocolQUIC, func(n int, p []byte) []byte { return map[bool][]byte{true: negotiation(p)}[n == 1] }, false, false},
		"an echo is no server":                     {v1alpha1.ProtocolQUIC, func(_ int, p []byte) []byte { return p }, true, true},
		"an answer to somebody else is none":       {v1alpha1.ProtocolQUIC, func(_ int, p []byte) []byte { a := negotiation(p); a[8] ^= 1; return a }, true, true},
		"an answer without a version is none":      {v1alpha1.ProtocolQUIC, func(_ int, p []byte) []byte { a := negotiation(p); return a[:len(a)-4] }, true, true},
		"a packet of one version is no choice":     {v1alpha1.ProtocolQUIC, func(_ int, p []byte) []byte { a := negotiation(p); a[4] = 1; return a }, true, true},
		"a short header is none":                   {v1alpha1.ProtocolQUIC, func(_ int, p []byte) []byte { a := negotiation(p); a[0] = 0x7f; return a }, true, true},
		"nothing at all is read as nothing at all": {v1alpha1.ProtocolQUIC, func(int, []byte) []byte { return []byte{} }, true, true},
	} {
		_, p := sound(t)
		p.config.Cloud.Servers, p.config.Cloud.Protocol = []string{"127.0.0.1:1"}, c.protocol
		p.config.Cloud.QUICPort = answering(t, c.answer)
		p.udpWait = 5 * time.Second
		if c.found {
			p.udpWait = 50 * time.Millisecond
		}
		if strings.Contains(name, "lost") {
			p.udpWait = 500 * time.Millisecond
		}
		f, ok := udpFinding(t, p)
		if ok != c.found || f.Error != c.error || ok && (!strings.Contains(f.Found, strconv.Itoa(p.config.Cloud.QUICPort)) || f.Remedy == "") {
			t.Errorf("%s: found %t, %+v", name, ok, f)
		}
	}
}

func udpFinding(t *testing.T, p *preflight) (out finding, ok bool) {
	p.udp(t.Context(), func(isError bool, name, found, remedy string) {
		out, ok = finding{Name: name, Error: isError, Found: found, Remedy: remedy}, true
	})
	return out, ok
}

func TestOneCloudCoreOfTwoWithQUICIsEnough(t *testing.T) {
	_, p := sound(t)
	p.config.Cloud.Servers, p.config.Cloud.Protocol = []string{"127.0.0.2:1", "127.0.0.1:1"}, v1alpha1.ProtocolQUIC
	p.config.Cloud.QUICPort = answering(t, func(_ int, p []byte) []byte { return negotiation(p) })
	if f, ok := udpFinding(t, p); !ok || f.Error || !strings.Contains(f.Found, "127.0.0.2") || strings.Contains(f.Found, "127.0.0.1:") {
		t.Errorf("found %t, %+v", ok, f)
	}
}

// QUIC goes past a proxy: edgecore does not race it then, unless it may use nothing else.
func TestAProxyIsNotAskedOverUDP(t *testing.T) {
	_, p := sound(t)
	p.config.Cloud.Servers, p.config.Cloud.Protocol, p.config.Cloud.Proxy = []string{"127.0.0.1:1"}, v1alpha1.ProtocolAuto, "http://127.0.0.1:1"
	var packets atomic.Int32
	p.config.Cloud.QUICPort = answering(t, func(int, []byte) []byte { packets.Add(1); return nil })
	p.udpWait = 50 * time.Millisecond
	var err error
	if p.ports, err = joinPortsOf(p.config); err != nil {
		t.Fatal(err)
	}
	if f, ok := udpFinding(t, p); ok || packets.Load() > 0 {
		t.Errorf("found %+v after %d packets", f, packets.Load())
	}
	p.config.Cloud.Protocol = v1alpha1.ProtocolQUIC
	if f, ok := udpFinding(t, p); !ok || packets.Load() != udpTries {
		t.Errorf("found %t, %+v after %d packets", ok, f, packets.Load())
	}
}

func TestThePacketHasTheSizeThatServersAnswer(t *testing.T) {
	p := unknownVersion([]byte("12345678"), []byte("abcdefgh"))
	if want := []byte("\xc0\x0a\x0a\x0a\x0a\x0812345678\x08abcdefgh"); len(p) != 1200 || !bytes.HasPrefix(p, want) {
		t.Errorf("%d bytes, %x; expected 1200 that begin with %x", len(p), p[:30], want)
	}
}

// The hub's own QUIC is found.
func TestTheHubAnswersOverUDP(t *testing.T) {
	ca := newCA(t, time.Now)
	pair, err := ca.IssueServer([]string{"localhost"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	hub := transport.NewServer(transport.ServerConfig{TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert},
		MaxHandshakes: 2, HandshakeTimeout: time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, func(transport.Stream, func()) {})
	l := listenUDP(t)
	done := make(chan error, 1)
	go func() { done <- hub.ServeQUIC(t.Context(), l, nil) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = hub.Close()
	})
	if err := speaksQUIC(t.Context(), l.LocalAddr().String(), 5*time.Second); err != nil {
		t.Errorf("the hub gives no answer: %v", err)
	}
}
