package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// outcome is what both ends of one connection saw.
type outcome struct {
	node           string // the name that the server read
	client, server error
}

// connect makes one connection over loopback and sends one byte from server to client, since in TLS 1.3 a client
// learns of a refusal only when it reads.
func connect(t *testing.T, server, client *tls.Config) (o outcome) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			o.server = err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, server)
		if o.server = c.HandshakeContext(t.Context()); o.server != nil {
			return
		}
		if o.node, o.server = NodeName(c.ConnectionState().PeerCertificates[0]); o.server == nil {
			_, o.server = c.Write([]byte{1})
		}
	}()
	raw, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, client)
	_, o.client = io.ReadFull(c, make([]byte, 1))
	raw.Close()
	<-done
	return o
}

func TestBothEndsProveWhoTheyAre(t *testing.T) {
	ca := newCA(t)
	sp, err := ca.IssueServer([]string{"hub.example", "127.0.0.1"}, 365*day)
	server := identity(t, sp, err)
	np, err := ca.IssueNode("edge-1", 365*day)
	node, trust := identity(t, np, err), authorities(t, ca)
	for _, name := range []string{"hub.example", "127.0.0.1"} {
		o := connect(t, ServerTLS(server, trust, at(0)), ClientTLS(node, trust, name, at(0)))
		if o.client != nil || o.server != nil || o.node != "edge-1" {
			t.Errorf("dialled %s: %+v", name, o)
		}
	}
}

func TestOlderTLSIsRefused(t *testing.T) {
	ca := newCA(t)
	sp, err := ca.IssueServer([]string{"hub"}, day)
	server := identity(t, sp, err)
	np, err := ca.IssueNode("a", day)
	node, trust := identity(t, np, err), authorities(t, ca)
	old := ClientTLS(node, trust, "hub", at(0))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if o := connect(t, ServerTLS(server, trust, at(0)), old); o.server == nil || o.client == nil {
		t.Errorf("a TLS 1.2 client got through: %+v", o)
	}
	oldServer := ServerTLS(server, trust, at(0))
	oldServer.GetConfigForClient, oldServer.ClientCAs = nil, trust.Pool()
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if o := connect(t, oldServer, ClientTLS(node, trust, "hub", at(0))); o.client == nil {
		t.Errorf("a TLS 1.2 server was accepted: %+v", o)
	}
}

// Each case breaks one thing; which end must see it, and what it must say.
func TestFailedHandshakesAreToldInWords(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	sp, err := ca.IssueServer([]string{"hub", "10.0.0.1"}, 30*day)
	server := identity(t, sp, err)
	fs, err := foreign.IssueServer([]string{"hub"}, 30*day)
	foreignServer := identity(t, fs, err)
	np, err := ca.IssueNode("a", 10*day)
	node := identity(t, np, err)
	fn, err := foreign.IssueNode("a", 30*day)
	foreignNode := identity(t, fn, err)
	trust := authorities(t, ca)
	nobody := ClientTLS(node, trust, "hub", at(0))
	nobody.GetClientCertificate = nil

	for _, c := range []struct {
		name           string
		server, client *tls.Config
		clock          Clock // of the end that explains
		atServer       bool
		want           error
		says           []string
	}{
		{"server expired", ServerTLS(server, trust, at(0)), ClientTLS(node, trust, "hub", at(31*day)), at(31 * day), false,
			ErrExpired, []string{"CN=hub", "to 2030-07-01 12:00:00 UTC", "clock says 2030-07-02 12:00:00 UTC", "has expired"}},
		{"edge's clock at its epoch", ServerTLS(server, trust, at(0)), ClientTLS(node, trust, "hub", at(-60*365*day)), at(-60 * 365 * day), false,
			ErrExpired, []string{"not valid yet", "clock says 1970-", "set the clock"}},
		{"node expired, seen by the server", ServerTLS(server, trust, at(20*day)), ClientTLS(node, trust, "hub", at(0)), at(20 * day), true,
			ErrExpired, []string{"system:node:a", "to 2030-06-11 12:00:00 UTC", "clock says 2030-06-21 12:00:00 UTC"}},
		{"node expired, seen by the edge", ServerTLS(server, trust, at(20*day)), ClientTLS(node, trust, "hub", at(0)), at(0), false,
			ErrRefused, []string{"by the peer's clock"}},
		{"foreign server", ServerTLS(foreignServer, trust, at(0)), ClientTLS(node, trust, "hub", at(0)), at(0), false,
			ErrUntrusted, []string{"not in the CA file"}},
		{"foreign node, seen by the server", ServerTLS(server, trust, at(0)), ClientTLS(foreignNode, trust, "hub", at(0)), at(0), true,
			ErrUntrusted, []string{"system:node:a", "not in the CA file"}},
		{"foreign node, seen by the edge", ServerTLS(server, trust, at(0)), ClientTLS(foreignNode, trust, "hub", at(0)), at(0), false,
			ErrRefused, []string{"the peer's CA file"}},
		{"wrong name", ServerTLS(server, trust, at(0)), ClientTLS(node, trust, "other", at(0)), at(0), false,
			ErrWrongName, []string{"dialled other", "hub, 10.0.0.1"}},
		{"no client certificate", ServerTLS(server, trust, at(0)), nobody, at(0), false,
			ErrRefused, []string{"expected a client certificate"}},
		{"a node as server", ServerTLS(node, trust, at(0)), ClientTLS(node, trust, "hub", at(0)), at(0), false, nil, nil},
		{"a server as node", ServerTLS(server, trust, at(0)), ClientTLS(server, trust, "hub", at(0)), at(0), true, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := connect(t, c.server, c.client)
			got := o.client
			if c.atServer {
				got = o.server
			}
			if got == nil || o.node != "" {
				t.Fatalf("the connection was accepted: %+v", o)
			}
			told := Explain(got, c.clock)
			if c.want != nil && !errors.Is(told, c.want) {
				t.Errorf("Explain = %v, expected it to match %v", told, c.want)
			}
			for _, s := range c.says {
				if !strings.Contains(told.Error(), s) {
					t.Errorf("Explain = %v, expected it to say %q", told, s)
				}
			}
			if !errors.Is(told, got) {
				t.Errorf("Explain lost the cause, %v", got)
			}
		})
	}
}

func TestAClockAnHourWrongConnects(t *testing.T) {
	ca := newCA(t)
	sp, err := ca.IssueServer([]string{"hub"}, 30*day)
	server := identity(t, sp, err)
	np, err := ca.IssueNode("a", 30*day)
	node, trust := identity(t, np, err), authorities(t, ca)
	for _, d := range []time.Duration{-time.Hour, time.Hour} {
		if o := connect(t, ServerTLS(server, trust, at(0)), ClientTLS(node, trust, "hub", at(d))); o.client != nil || o.server != nil {
			t.Errorf("edge's clock off by %v: %+v", d, o)
		}
	}
	if err := node.Check(at(31 * day)); !errors.Is(err, ErrExpired) {
		t.Errorf("Check = %v, expected %v", err, ErrExpired)
	}
	if err := node.Check(at(0)); err != nil {
		t.Errorf("Check = %v for a good certificate", err)
	}
}

func TestANewCAFileCountsAtTheNextHandshake(t *testing.T) {
	ca, next := newCA(t), newCA(t)
	sp, err := ca.IssueServer([]string{"hub"}, day)
	server := identity(t, sp, err)
	np, err := next.IssueNode("a", day)
	node := identity(t, np, err)
	f := t.TempDir() + "/" + CACertFile
	if err := WriteFile(f, ca.CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	clients, err := NewAuthorities(f, quiet())
	if err != nil {
		t.Fatal(err)
	}
	cfg, trust := ServerTLS(server, clients, at(0)), authorities(t, ca)
	if o := connect(t, cfg, ClientTLS(node, trust, "hub", at(0))); !errors.Is(Explain(o.server, at(0)), ErrUntrusted) {
		t.Fatalf("a node of another CA: %+v", o)
	}
	if err := WriteFile(f, append(ca.CertPEM(), next.CertPEM()...), 0o644); err != nil {
		t.Fatal(err)
	}
	if o := connect(t, cfg, ClientTLS(node, trust, "hub", at(0))); o.server != nil || o.node != "a" {
		t.Errorf("after its CA was added to the file: %+v", o)
	}
}

func TestOtherErrorsAreLeftAlone(t *testing.T) {
	for _, err := range []error{nil, io.EOF, &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}} {
		if got := Explain(err, at(0)); got != err {
			t.Errorf("Explain(%v) = %v", err, got)
		}
	}
}
