package transport

import (
	"crypto/x509"
	"net"
)

// Pipe returns the two ends of a stream in memory, without buffering. client is what the server's end says of its peer,
// server what the client's end says.
func Pipe(client, server *x509.Certificate) (clientEnd, serverEnd Stream) {
	a, b := net.Pipe()
	return &memory{a, server}, &memory{b, client}
}

type memory struct {
	net.Conn
	peer *x509.Certificate
}

func (m *memory) Peer() *x509.Certificate { return m.peer }
func (m *memory) RemoteAddr() string      { return "memory" }
func (m *memory) Protocol() Protocol      { return Memory }
