package transport

import (
	"io"
	"sync"
	"time"
)

// pieceSize is how much of a WriteAll has a deadline of its own, in bytes: a minute for 64 KiB is 9 kbit/s.
const pieceSize = 64 << 10

// writeDeadline is the time by which the Writes of a stream are to be through: the caller's, and that of the piece which a WriteAll
// writes. The earlier holds.
type writeDeadline struct {
	// mu guards all below. Zero is none.
	mu     sync.Mutex
	caller time.Time
	piece  time.Time
}

// set takes the caller's deadline, and apply gives what holds to the connection.
func (d *writeDeadline) set(t time.Time, apply func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.caller = t
	return apply(d.holds())
}

// begin sets a piece's deadline, zero for none.
func (d *writeDeadline) begin(t time.Time, apply func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.piece = t
	return apply(d.holds())
}

// current is what holds.
func (d *writeDeadline) current() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.holds()
}

// holds is called with mu held.
func (d *writeDeadline) holds() time.Time {
	if d.caller.IsZero() || !d.piece.IsZero() && d.piece.Before(d.caller) {
		return d.piece
	}
	return d.caller
}

// writePieces writes the chunks, each piece of them with a deadline of its own.
func writePieces(w io.Writer, chunks [][]byte, each time.Duration, d *writeDeadline, apply func(time.Time) error) error {
	left := 0
	for _, c := range chunks {
		for len(c) > 0 {
			if left == 0 {
				left = pieceSize
				if err := d.begin(time.Now().Add(each), apply); err != nil {
					return err
				}
			}
			n := min(len(c), left)
			if _, err := w.Write(c[:n]); err != nil {
				return err
			}
			c, left = c[n:], left-n
		}
	}
	return nil
}
