package chaos

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

// TestNamesAndProxyServeUntilTheyAreDead: what the faults take away has to have been there.
func TestNamesAndProxyServeUntilTheyAreDead(t *testing.T) {
	o := &outside{resolved: map[string]netip.Addr{"cloud.test": netip.MustParseAddr("127.0.0.1")}, conns: map[net.Conn]bool{}}
	var err error
	if o.names, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if o.proxies, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go o.serveNames()
	go o.serveProxy()
	defer func() {
		if err := o.close(); err != nil {
			t.Error(err)
		}
	}()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", o.names.LocalAddr().String())
	}}
	if got, err := resolver.LookupHost(t.Context(), "cloud.test."); err != nil || len(got) != 1 || got[0] != "127.0.0.1" {
		t.Errorf("cloud.test has the addresses %v: %v", got, err)
	}
	if got, err := resolver.LookupHost(t.Context(), "other.test."); err == nil {
		t.Errorf("other.test has the addresses %v, expected none", got)
	}
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	through := func() error {
		c, err := net.Dial("tcp", o.proxies.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, port, _ := net.SplitHostPort(target.Addr().String())
		if _, err := c.Write([]byte("CONNECT cloud.test:" + port + " HTTP/1.1\r\nHost: cloud.test:" + port + "\r\n\r\n")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}
	if err := through(); err != nil {
		t.Errorf("through the proxy: %v", err)
	}
	o.killProxy(true)
	if err := through(); err == nil {
		t.Error("a dead proxy let a connection through")
	}
	o.killProxy(false)
	if err := through(); err != nil {
		t.Errorf("through the proxy when it is back: %v", err)
	}
}
