package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
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

// WideTLS is TLS over a Wide. io.Copy in either direction takes few system calls.
type WideTLS struct {
	*tls.Conn
	wide *Wide
}

// Widen returns TLS that a FairListener's connection carries over a Wide, and reports false where there is none such. Nobody
// may read or write it meanwhile.
func Widen(c net.Conn) (*WideTLS, bool) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil, false
	}
	place, ok := t.NetConn().(*placed)
	if !ok {
		return nil, false
	}
	wide := NewWide(place.Conn)
	place.Conn = wide
	return &WideTLS{t, wide}, true
}

// maxPlain is the most that one record of TLS brings (RFC 8446, section 5.1), in bytes.
const maxPlain = 1 << 14

var wideChunks = sync.Pool{New: func() any { return new([wideBuffer]byte) }}

// ReadFrom implements io.ReaderFrom: what one Read brings is sent at once.
func (c *WideTLS) ReadFrom(r io.Reader) (total int64, err error) {
	chunk := wideChunks.Get().(*[wideBuffer]byte)
	defer wideChunks.Put(chunk)
	for {
		n, err := r.Read(chunk[:])
		if n > 0 {
			c.wide.Hold()
			wrote, e := c.Write(chunk[:n])
			total += int64(wrote)
			if e = errors.Join(e, c.wide.Flush()); e != nil {
				return total, e
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// WriteTo implements io.WriterTo: what has come is written at once.
func (c *WideTLS) WriteTo(w io.Writer) (total int64, err error) {
	chunk := wideChunks.Get().(*[wideBuffer]byte)
	defer wideChunks.Put(chunk)
	for {
		n, err := c.Read(chunk[:])
		for err == nil && n <= len(chunk)-maxPlain && c.wide.More() {
			var more int
			more, err = c.Read(chunk[n:])
			n += more
		}
		if n > 0 {
			wrote, e := w.Write(chunk[:n])
			total += int64(wrote)
			if e != nil {
				return total, e
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
