package transport

import (
	"io"
	"sync"
	"time"
)

// pieceSize is how much of a WriteAll has a deadline of its own, in bytes: a minute for 64 KiB is 9 kbit/s.
const pieceSize = 64 << 10

// writeDeadline is the time by which the Writes of a stream are to be through.
type writeDeadline struct {
	// mu guards all below.
	mu    sync.Mutex
	at    time.Time
	times uint64 // it was set
}

// set takes a new deadline, which apply gives to the connection.
func (d *writeDeadline) set(t time.Time, apply func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.times = t, d.times+1
	return apply(t)
}

// current returns the deadline, and how many were set up to it.
func (d *writeDeadline) current() (time.Time, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at, d.times
}

// renew sets t unless another than the one with that number was set meanwhile. apply gets what holds.
func (d *writeDeadline) renew(number uint64, t time.Time, apply func(time.Time) error) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.times == number {
		d.at, d.times, number = t, d.times+1, number+1
	}
	return number, apply(d.at)
}

// writePieces writes the chunks, each piece of them with a new deadline, until somebody else sets one.
func writePieces(w io.Writer, chunks [][]byte, each time.Duration, d *writeDeadline, apply func(time.Time) error) error {
	_, number := d.current()
	left := 0
	for _, c := range chunks {
		for len(c) > 0 {
			if left == 0 {
				left = pieceSize
				var err error
				if number, err = d.renew(number, time.Now().Add(each), apply); err != nil {
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
