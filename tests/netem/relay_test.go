package netem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// randomBytes is the same for each call with the same n.
func randomBytes(n int) []byte {
	var seed [32]byte
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// transfer sends data over a connection and returns what arrives.
func transfer(t *testing.T, from, to net.Conn, data []byte) []byte {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(to, got)
	if err = errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	return got
}

// echo answers each byte of a connection with itself until it closes.
func echo(conn net.Conn) {
	go func() { _, _ = io.Copy(conn, conn) }()
}

// roundTrip sends one byte to an echo and returns how long its answer took.
func roundTrip(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestZeroSettingsForwardEverythingUnchanged(t *testing.T) {
	c := newCable(t)
	// A link that merges packets on their way in must not do so for the relay.
	c.in(c.root, func() error {
		return errors.Join(ethtool("a", unix.ETHTOOL_SGRO, 1), ethtool("b", unix.ETHTOOL_SGRO, 1))
	})
	r, _ := c.relay(Config{})
	edge, root := c.connect()
	data := randomBytes(1 << 20)
	for _, way := range [][2]net.Conn{{edge, root}, {root, edge}} {
		if !bytes.Equal(transfer(t, way[0], way[1], data), data) {
			t.Error("the bytes that arrived are not those that were sent")
		}
	}
	udpEdge, udpRoot := c.datagrams()
	buffer := make([]byte, 2000)
	for size := 1; size <= 1472; size += 7 { // 1472 bytes fill a frame of 1500
		if _, err := udpRoot.Write(data[:size]); err != nil {
			t.Fatal(err)
		}
		_ = udpEdge.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := udpEdge.Read(buffer)
		if err != nil {
			t.Fatalf("datagram of %d bytes: %v", size, err)
		}
		if !bytes.Equal(buffer[:n], data[:size]) {
			t.Fatalf("the datagram of %d bytes is not the one that was sent", size)
		}
	}
	for _, d := range []Direction{Up, Down} {
		eventually(t, "all frames to be sent", func() error {
			k := r.Counters(d)
			if k.Received == 0 || k.Sent != k.Received || k.Missed != 0 {
				return fmt.Errorf("%s: expected every frame to be sent, found %+v", d, k)
			}
			return nil
		})
	}
}

func TestDelayShowsInEveryRoundTripAndTheRelaySleeps(t *testing.T) {
	const up, down, rounds = 30 * time.Millisecond, 50 * time.Millisecond, 8
	c := newCable(t)
	r, _ := c.relay(Config{Up: Settings{Delay: up}, Down: Settings{Delay: down}})
	edge, root := c.connect()
	echo(root)
	began, cpu := time.Now(), cpuTime(t)
	for range rounds {
		if took := roundTrip(t, edge); took < up+down {
			t.Errorf("a round trip took %s, expected at least %s", took, up+down)
		}
	}
	if used, took := cpuTime(t)-cpu, time.Since(began); used > took/2 {
		t.Errorf("the relay used %s of processor time in %s with hardly a frame to forward", used, took)
	}
	if err := r.SetBoth(Settings{}); err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for range rounds {
		best = min(best, roundTrip(t, edge))
	}
	if best >= up+down {
		t.Errorf("after the delay was taken away the best round trip took %s, expected less than %s", best, up+down)
	}
}

// cpuTime is what this process has used of the processors.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// arriving sends numbered datagrams from the root and returns the numbers of those that reach the edge.
func arriving(t *testing.T, count int, seed uint64) (numbers []uint16) {
	t.Helper()
	c := newCable(t)
	c.knowEachOther()
	r, stop := c.relay(Config{Down: Settings{Loss: 0.1}, Seed: seed})
	defer stop()
	edge, root := c.datagrams()
	buffer := make([]byte, 100)
	for n := 0; n < count; {
		// A batch that fits the receiver's buffer, so that the relay alone loses datagrams.
		for end := min(n+50, count); n < end; n++ {
			if _, err := root.Write([]byte{byte(n >> 8), byte(n)}); err != nil {
				t.Fatal(err)
			}
		}
		var k Counters
		eventually(t, "the relay to deal with the batch", func() error {
			if k = r.Counters(Down); k.Sent+k.Lost != uint64(n) {
				return fmt.Errorf("expected %d frames, found %+v", n, k)
			}
			return nil
		})
		for len(numbers) < int(k.Sent) {
			_ = edge.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := edge.Read(buffer); err != nil {
				t.Fatalf("%d datagrams arrived of %d that the relay sent: %v", len(numbers), k.Sent, err)
			}
			numbers = append(numbers, uint16(buffer[0])<<8|uint16(buffer[1]))
		}
	}
	return numbers
}

func TestLossTakesItsShareAndRepeatsWithItsSeed(t *testing.T) {
	const count = 2000
	first, again, other := arriving(t, count, 1), arriving(t, count, 1), arriving(t, count, 2)
	for seed, got := range map[int][]uint16{1: first, 2: other} {
		// The standard deviation is 0.0067.
		if lost := 1 - float64(len(got))/count; lost < 0.07 || lost > 0.13 {
			t.Errorf("seed %d: expected a loss of about 0.1, found %.3f", seed, lost)
		}
		if !slices.IsSorted(got) {
			t.Errorf("seed %d: the datagrams came out of order", seed)
		}
	}
	if !slices.Equal(first, again) {
		t.Error("the same seed lost other datagrams the second time")
	}
	if slices.Equal(first, other) {
		t.Error("another seed lost the same datagrams")
	}
}

func TestRateHolds(t *testing.T) {
	const rate, size = 200_000, 300_000
	c := newCable(t)
	c.relay(Config{Up: Settings{Rate: rate, Queue: 30_000}})
	edge, root := c.connect()
	began := time.Now()
	data := randomBytes(size)
	if !bytes.Equal(transfer(t, edge, root, data), data) {
		t.Error("the bytes that arrived are not those that were sent")
	}
	took := time.Since(began)
	if least := time.Second * size / rate; took < least || took > 10*least {
		t.Errorf("%d bytes at %d bytes per second took %s, expected %s or somewhat more", size, rate, took, least)
	}
	// The other direction has no limit.
	began = time.Now()
	transfer(t, root, edge, data)
	if back := time.Since(began); back > took {
		t.Errorf("the direction without a limit took %s, the one with it %s", back, took)
	}
}

func TestABlackHoleSwallowsOneDirectionAndConnectionsOutliveIt(t *testing.T) {
	c := newCable(t)
	c.knowEachOther()
	r, _ := c.relay(Config{})
	edge, root := c.connect()
	echo(root)
	roundTrip(t, edge)
	if err := r.Set(Down, Settings{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	before := r.Counters(Down)
	if _, err := edge.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	// The answer, and then its retransmission.
	eventually(t, "answers to be swallowed", func() error {
		if k := r.Counters(Down); k.Lost < before.Lost+2 || k.Sent != before.Sent {
			return fmt.Errorf("expected two more lost and none sent since %+v, found %+v", before, k)
		}
		return nil
	})
	if err := r.SetBoth(Settings{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(edge, make([]byte, 1)); err != nil {
		t.Errorf("the answer did not come after the hole was closed: %v", err)
	}
	roundTrip(t, edge)
}

func TestTheKernelDoesNotAnswerForTheFarEnd(t *testing.T) {
	c := newCable(t)
	r, _ := c.relay(Config{Up: Settings{Loss: 1}})
	edge, _ := c.datagrams()
	if _, err := edge.WriteTo([]byte("anybody?"), &net.UDPAddr{IP: net.ParseIP(rootIP), Port: 9}); err != nil {
		t.Fatal(err)
	}
	// No request gets through, but the kernel that owns the address sees them all on the relay's link.
	eventually(t, "the edge to ask again for the address", func() error {
		if k := r.Counters(Up); k.Lost < 2 {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
	c.in(c.edge, func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range list {
			if n.IP.String() == rootIP && len(n.HardwareAddr) > 0 {
				err = errors.Join(err, fmt.Errorf("expected no answer to pass the black hole, found %v", n))
			}
		}
		return err
	})
}

func TestOnlyWhatArrivesOnALinkIsForwarded(t *testing.T) {
	c := newCable(t)
	c.knowEachOther()
	r, _ := c.relay(Config{})
	// Another program sends a frame out on the relay's link towards the edge.
	var other *port
	c.in(c.root, func() (err error) { other, err = openPort("b"); return err })
	defer other.close()
	if _, err := other.socket.Write(make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
	edge, root := c.datagrams()
	if _, err := edge.WriteTo([]byte("up"), root.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	_ = root.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := root.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if k := r.Counters(Up); k.Received != 1 {
		t.Errorf("expected the edge's datagram alone to be forwarded, found %+v", k)
	}
}

func TestAStoppedRelayForwardsNothingAndMakesRoomForAnother(t *testing.T) {
	c := newCable(t)
	c.knowEachOther()
	first, stop := c.relay(Config{Down: Settings{Delay: time.Minute}})
	edge, root := c.datagrams()
	if _, err := root.Write([]byte("held")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the frame to be held", func() error {
		if k := first.Counters(Down); k.Held != 1 {
			return fmt.Errorf("%+v", k)
		}
		return nil
	})
	stop()
	if _, err := root.Write([]byte("nobody there")); err != nil {
		t.Fatal(err)
	}
	c.relay(Config{})
	if _, err := root.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	_ = edge.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := edge.Read(buffer)
	if err != nil || string(buffer[:n]) != "second" {
		t.Errorf("expected only the datagram of the second relay, found %q, %v", buffer[:n], err)
	}
	if k := first.Counters(Down); k.Received != 1 || k.Sent != 0 {
		t.Errorf("expected the first relay to have taken one frame and sent none, found %+v", k)
	}
}

func TestALinkThatWasDownIsForwardedAgain(t *testing.T) {
	c := newCable(t)
	c.relay(Config{})
	edge, root := c.connect()
	echo(root)
	roundTrip(t, edge)
	for _, name := range []string{"b", "a", "far"} {
		c.in(c.root, func() error { return setUp(name, false) })
		c.in(c.root, func() error { return setUp(name, true) })
		roundTrip(t, edge)
	}
}

func TestARemovedLinkEndsTheRelay(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		c := newCable(t)
		var r *Relay
		c.in(c.root, func() (err error) {
			r, err = New(Config{Root: "a", Edge: "b"}, slog.New(slog.DiscardHandler))
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- r.Start(ctx) }()
		c.in(c.root, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		if err := <-done; !errors.Is(err, ErrLinkGone) {
			t.Errorf("without link %s: expected ErrLinkGone, found %v", name, err)
		}
	}
}

func TestAFaultyRelayIsRefusedWithItsReason(t *testing.T) {
	c := newCable(t)
	for want, cfg := range map[string]Config{
		"absent":               {Root: "a", Edge: "absent"},
		"twice":                {Root: "a", Edge: "a"},
		"settings down: loss:": {Root: "a", Edge: "b", Down: Settings{Loss: 2}},
	} {
		c.in(c.root, func() error {
			_, err := New(cfg, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("expected an error with %q, found: %v", want, err)
			}
			return nil
		})
	}
}
