package transport

import (
	"crypto/x509"
	"net"
	"sync"
	"time"
)

// Pipe returns the two ends of a stream in memory, without buffering. client is what the server's end says of its peer,
// server what the client's end says.
func Pipe(client, server *x509.Certificate) (clientEnd, serverEnd Stream) {
	a, b := net.Pipe()
	return &memory{Conn: a, peer: server}, &memory{Conn: b, peer: client}
}

type memory struct {
	net.Conn
	peer     *x509.Certificate
	writing  sync.Mutex // orders whole Writes
	deadline writeDeadline
}

func (m *memory) Write(p []byte) (int, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	return m.Conn.Write(p)
}

func (m *memory) WriteAll(chunks [][]byte, each time.Duration) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if err := writePieces(m.Conn, chunks, each, &m.deadline, m.Conn.SetWriteDeadline); err != nil {
		return err
	}
	return m.deadline.begin(time.Time{}, m.Conn.SetWriteDeadline)
}

func (m *memory) SetWriteDeadline(t time.Time) error {
	return m.deadline.set(t, m.Conn.SetWriteDeadline)
}

func (m *memory) Peer() *x509.Certificate { return m.peer }
func (m *memory) RemoteAddr() string      { return "memory" }
func (m *memory) Protocol() Protocol      { return Memory }
