package transport

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWriteAllIsOneWrite: chunks of all sizes arrive in order, and what another goroutine writes meanwhile comes before or after
// them, never between.
func TestWriteAllIsOneWrite(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		client, hub := s.pair(t, "edge-1")
		const other = 'o'
		var chunks [][]byte
		for _, n := range []int{1, 0, 511, 70 << 10, 3, 4 << 10, 200 << 10, 4} {
			c := make([]byte, n)
			rand.NewChaCha8([32]byte{byte(n)}).Read(c)
			for i := range c {
				c[i] &^= 0x80 // so that marks stand out
			}
			chunks = append(chunks, c)
		}
		want := bytes.Join(chunks, nil)
		for _, way := range []struct {
			name     string
			from, to Stream
		}{{"up", client, hub}, {"down", hub, client}} {
			const times = 5
			var writing sync.WaitGroup
			writing.Go(func() {
				for range times {
					if err := way.from.WriteAll(chunks, 10*time.Second); err != nil {
						t.Errorf("%s: %v", way.name, err)
					}
				}
			})
			writing.Go(func() {
				for range times {
					if _, err := way.from.Write([]byte{0x80 | other}); err != nil {
						t.Errorf("%s: %v", way.name, err)
					}
				}
			})
			got := make([]byte, times*(len(want)+1))
			if _, err := io.ReadFull(way.to, got); err != nil {
				t.Fatal(err)
			}
			writing.Wait()
			for range times {
				got = bytes.TrimLeft(got, string([]byte{0x80 | other}))
				if !bytes.HasPrefix(got, want) {
					t.Fatalf("%s: the chunks did not arrive as one", way.name)
				}
				got = got[len(want):]
			}
		}
	})
}

// TestWriteAllGivesEachPieceItsTime: what takes long because it is much is no fault of the peer's, one that takes nothing is.
func TestWriteAllGivesEachPieceItsTime(t *testing.T) {
	const each = 10 * time.Second
	chunks := [][]byte{make([]byte, 10), make([]byte, 5*pieceSize), make([]byte, 100)}
	size := 5*pieceSize + 110
	synctest.Test(t, func(t *testing.T) {
		from, to := Pipe(nil, nil)
		var reading sync.WaitGroup
		reading.Go(func() {
			for left := size; left > 0; left -= pieceSize {
				<-time.After(each - time.Second)
				if _, err := io.ReadFull(to, make([]byte, min(left, pieceSize))); err != nil {
					t.Error(err)
				}
			}
		})
		if err := from.WriteAll(chunks, each); err != nil {
			t.Errorf("a piece every 9 s: %v", err)
		}
		<-time.After(2 * each)
		reading.Go(func() { _, _ = io.ReadFull(to, make([]byte, 1)) })
		if _, err := from.Write([]byte{1}); err != nil {
			t.Errorf("a Write long after a WriteAll: %v", err)
		}
		began := time.Now()
		reading.Go(func() { _, _ = io.ReadFull(to, make([]byte, 3*pieceSize)) })
		if err := from.WriteAll(chunks, each); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != each {
			t.Errorf("a peer that stops reading: %v after %s, want the deadline after %s", err, time.Since(began), each)
		}
		_ = from.Close()
		reading.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		from, to := Pipe(nil, nil)
		began := time.Now()
		time.AfterFunc(3*time.Second, func() { _ = from.SetWriteDeadline(time.Now().Add(7 * time.Second)) })
		var reading sync.WaitGroup
		reading.Go(func() {
			for {
				<-time.After(time.Second / 2)
				if _, err := io.ReadFull(to, make([]byte, 4<<10)); err != nil {
					return
				}
			}
		})
		if err := from.WriteAll(chunks, each); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != each {
			t.Errorf("a deadline that is set meanwhile: %v after %s, want it to hold for the rest and end after %s", err, time.Since(began), each)
		}
		if err := from.WriteAll(chunks, each); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != each {
			t.Errorf("a deadline that is over already: %v after %s more", err, time.Since(began)-each)
		}
		_ = from.Close()
		reading.Wait()
	})
}

// TestTheKernelHoldsLittleForAPeerThatDoesNotRead: ten thousand such must not hold megabytes each.
func TestTheKernelHoldsLittleForAPeerThatDoesNotRead(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, s *server) {
		_, hub := s.pair(t, "edge-1")
		taken := 0
		piece := make([]byte, 16<<10)
		for {
			_ = hub.SetWriteDeadline(time.Now().Add(time.Second))
			n, err := hub.Write(piece)
			if err != nil {
				break
			}
			taken += n
		}
		// The bound itself, what the peer's own socket takes unread, and a write more.
		if limit := notSent + 512<<10; taken == 0 || taken > limit {
			t.Errorf("%d bytes were taken for a peer that does not read, want at most %d", taken, limit)
		}
		_ = hub.Close()
	})
}
