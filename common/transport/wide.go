package transport

import (
	"bufio"
	"net"
	"sync"
)

// wideBuffer is what a Wide reads and writes at once, in bytes: four records of TLS.
const wideBuffer = 64 << 10

// maxRecord is the most that one record of TLS takes (RFC 8446, section 5.2), in bytes.
const maxRecord = 5 + 1<<14 + 256

// Wide is a connection below TLS for much that goes one way: of TLS each record would be a system call. It reads ahead, and
// what is written between Hold and Flush goes at once. It costs 128 KiB.
type Wide struct {
	net.Conn
	r *bufio.Reader

	mu   sync.Mutex // guards all below
	w    *bufio.Writer
	held bool
}

// NewWide returns one over c, of which nothing may be read or written past it.
func NewWide(c net.Conn) *Wide {
	return &Wide{Conn: c, r: bufio.NewReaderSize(c, wideBuffer), w: bufio.NewWriterSize(c, wideBuffer+maxRecord)}
}

// Read implements net.Conn.
func (c *Wide) Read(p []byte) (int, error) { return c.r.Read(p) }

// More reports whether a record of TLS can be read without waiting. Who reads calls it.
func (c *Wide) More() bool { return c.r.Buffered() >= maxRecord }

// Write implements net.Conn.
func (c *Wide) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.w.Write(p)
	if err == nil && !c.held {
		err = c.w.Flush()
	}
	return n, err
}

// Hold keeps what is written, up to a buffer full, until Flush.
func (c *Wide) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

// Flush sends what was held.
func (c *Wide) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	return c.w.Flush()
}
