package transport

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// counted counts the calls that would be system calls.
type counted struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestAWideConnectionAsksTheKernelForLess(t *testing.T) {
	a, b := tcpPair(t)
	from, to := &counted{Conn: a}, &counted{Conn: b}
	sender, receiver := NewWide(from), NewWide(to)
	record := bytes.Repeat([]byte("r"), 1<<14)
	sender.Hold()
	for range 4 {
		if _, err := sender.Write(record); err != nil {
			t.Fatal(err)
		}
	}
	if n := from.writes.Load(); n != 0 {
		t.Errorf("%d writes before Flush, expected none", n)
	}
	if err := sender.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := from.writes.Load(); n != 1 {
		t.Errorf("%d writes of 64 KiB that were held, expected 1", n)
	}
	if _, err := sender.Write([]byte("at once")); err != nil {
		t.Fatal(err)
	}
	// More says of no byte that it is there before it is.
	got := make([]byte, 0, 1<<17)
	for len(got) < 4<<14 {
		if n := len(got); receiver.More() && n+maxRecord > 4<<14+len("at once") {
			t.Errorf("after %d bytes a record more is said to be there", n)
		}
		buf := make([]byte, 1<<14)
		n, err := receiver.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	rest := make([]byte, 4<<14+len("at once")-len(got))
	if _, err := io.ReadFull(receiver, rest); err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Repeat(record, 4), "at once"...); !bytes.Equal(append(got, rest...), want) {
		t.Error("what came is not what was sent")
	}
	if n := to.reads.Load(); n > 8 {
		t.Errorf("%d reads for 64 KiB that came at once", n)
	}
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}
