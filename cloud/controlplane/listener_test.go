package controlplane

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestOneListenerAcceptsOnEveryAddressAndSeesTheClient(t *testing.T) {
	cfg := anyPorts("x")
	if err := claimPorts(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	sockets, err := listenAll([]string{"127.0.0.1", "127.0.0.2"}, cfg.SecurePort)
	if err != nil {
		t.Fatal(err)
	}
	l := newMultiListener(sockets)
	for _, socket := range sockets {
		client, err := net.DialTimeout("tcp", socket.Addr().String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if server.RemoteAddr().String() != client.LocalAddr().String() || server.LocalAddr().String() != socket.Addr().String() {
			t.Errorf("accepted %v to %v, expected %v to %v", server.RemoteAddr(), server.LocalAddr(), client.LocalAddr(), socket.Addr())
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close, Accept returned %v", err)
	}
	if again, err := listenAll([]string{"127.0.0.1", "127.0.0.2"}, cfg.SecurePort); err != nil {
		t.Errorf("Close left a socket open: %v", err)
	} else {
		again[0].Close()
		again[1].Close()
	}
}
