package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/common/transport"
)

// attacker is the address from which floods come: the loopback network has many.
var attacker = net.IPv4(127, 0, 0, 2)

// load is what the process holds.
type load struct {
	goroutines int
	heap       uint64
}

func measure() load {
	runtime.GC()
	runtime.GC() // finalizers of the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return load{runtime.NumGoroutine(), m.HeapAlloc}
}

// settles waits until no more than what was there before is left, but for some MiB that are pooled.
func (before load) settles(t *testing.T) {
	t.Helper()
	var now load
	defer func() { t.Logf("before %+v, after %+v", before, now) }()
	eventually(t, fmt.Sprintf("goroutines and heap go back to %+v", before), func() bool {
		now = measure()
		return now.goroutines <= before.goroutines && now.heap <= before.heap+8<<20
	})
}

// A flood is an attack from one address that goes on until stop. It returns once it is in force. own is how many
// goroutines it takes itself.
type flood func(t *testing.T, w *world) (stop func(), own int)

// slowLoris holds hundreds of connections in the middle of their ClientHello, a byte now and then, and makes new ones for
// those that are closed.
func slowLoris(t *testing.T, w *world) (stop func(), own int) {
	const connections = 300
	ctx, cancel := context.WithCancel(context.Background())
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: attacker}, Timeout: time.Second}
	conns := make([]net.Conn, connections)
	var wg sync.WaitGroup
	begun := make(chan struct{})
	wg.Go(func() {
		defer func() {
			for _, c := range conns {
				if c != nil {
					_ = c.Close()
				}
			}
		}()
		for round := 0; ctx.Err() == nil; round++ {
			for i, c := range conns {
				if c != nil {
					if _, err := c.Write([]byte{0}); err == nil {
						continue
					}
					_ = c.Close()
				}
				if conns[i], _ = dialer.DialContext(ctx, "tcp", w.addr); conns[i] != nil {
					_, _ = conns[i].Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) // the head of a ClientHello of 512 bytes
				}
			}
			if round == 0 {
				close(begun)
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	<-begun
	return func() { cancel(); wg.Wait() }, 1
}

// initials returns the first packets of many QUIC connections.
func initials(t *testing.T) (packets [][]byte) {
	t.Helper()
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { _, _ = quic.DialAddr(ctx, mute.LocalAddr().String(), strangerTLS(), nil) })
	}
	defer func() { cancel(); wg.Wait() }()
	b := make([]byte, 2048)
	_ = mute.SetReadDeadline(time.Now().Add(10 * time.Second))
	for len(packets) < 100 {
		n, _, err := mute.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, append([]byte(nil), b[:n]...))
	}
	return packets
}

func strangerTLS() *tls.Config {
	return &tls.Config{NextProtos: []string{"tether.v1"}, InsecureSkipVerify: true}
}

// initialsWithoutEnd sends the first packets of connections, over and over, and reads no answer: as with the addresses of
// others, which the packets may as well carry.
func initialsWithoutEnd(t *testing.T, w *world) (stop func(), own int) {
	packets := initials(t)
	var sockets []*net.UDPConn
	for i := range 32 {
		socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))})
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, socket)
	}
	target, err := net.ResolveUDPAddr("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := sockets[i/len(packets)%len(sockets)].WriteTo(packets[i%len(packets)], target); err == nil {
				sent.Add(1)
			}
			if i%10 == 9 { // 2,000 a second
				<-tick.C
			}
		}
	})
	eventually(t, "the flood has begun", func() bool { return sent.Load() > 2*int64(len(packets)) })
	return func() {
		cancel()
		wg.Wait()
		for _, s := range sockets {
			_ = s.Close()
		}
	}, 1
}

// retryOnly is a socket that takes from the server its demand to prove an address, and nothing else.
type retryOnly struct {
	net.PacketConn
	retries *atomic.Int64
}

func (r retryOnly) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.PacketConn.ReadFrom(b)
		if err != nil || n > 0 && b[0]&0xf0 == 0xf0 { // RFC 9000, section 17.2.5: a long header of type 3
			if err == nil {
				r.retries.Add(1)
			}
			return n, from, err
		}
	}
}

// provenAndSilent proves its address for each of many connections, and says nothing more.
func provenAndSilent(t *testing.T, w *world) (stop func(), own int) {
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: attacker})
	if err != nil {
		t.Fatal(err)
	}
	target, err := net.ResolveUDPAddr("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true") // a wrapped socket has no buffer to set
	var retries atomic.Int64
	tr := &quic.Transport{Conn: retryOnly{socket, &retries}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	const at = 60
	for range at {
		wg.Go(func() {
			for ctx.Err() == nil {
				dctx, done := context.WithTimeout(ctx, 300*time.Millisecond)
				if c, err := tr.Dial(dctx, target, strangerTLS(), nil); err == nil {
					t.Error("a client that hears nothing has connected")
					_ = c.CloseWithError(0, "")
				}
				done()
			}
		})
	}
	eventually(t, "the flood has begun", func() bool { return retries.Load() > at })
	return func() { cancel(); wg.Wait(); _ = tr.Close(); _ = socket.Close() }, at * 10
}

func TestAFloodOfHandshakesKeepsNoHonestEdgeOut(t *testing.T) {
	floods := map[string]flood{"slow loris": slowLoris, "keep-alive": keepAlives(false), "keep-alive of a revoked node": keepAlives(true)}
	if protocol == transport.QUIC {
		floods = map[string]flood{"initials without end": initialsWithoutEnd, "proven and silent": provenAndSilent}
	}
	for name, begin := range floods {
		t.Run(name, func(t *testing.T) {
			const most = 16
			w := newWorld(t, func(c *hub.Config) { c.MaxHandshakes, c.HandshakeTimeout = most, 2*time.Second })
			early := w.join("early", edgeConfig{})
			eventually(t, "an edge is up before", early.up)
			session := w.nodes.session("early")
			before := measure()
			stop, own := begin(t, w)
			during := measure()
			if n := during.goroutines - before.goroutines - own; n > 8*most {
				t.Errorf("%d goroutines for the flood, expected some for each of %d handshakes", n, most)
			}
			if n := int64(during.heap) - int64(before.heap); n > 64<<20 {
				t.Errorf("%d MiB for the flood, expected 64 at most", n>>20)
			}
			for i := range 5 {
				e := w.join(fmt.Sprintf("honest-%d", i), edgeConfig{})
				within(t, 10*time.Second, fmt.Sprintf("honest edge %d gets in (%s)", i, e.Status().Problem), e.up)
				e.stop()
			}
			stop()
			if w.nodes.session("early") != session {
				t.Error("the edge that was there lost its session")
			}
			before.settles(t)
		})
	}
}

// A bad proxy lets handshakes begin and cuts them, thousands of them.
func TestThousandsOfDialsThatAreCutLeaveNothing(t *testing.T) {
	w := newWorld(t, func(c *hub.Config) { c.MaxHandshakes, c.HandshakeTimeout = 256, time.Second })
	early := w.join("early", edgeConfig{})
	eventually(t, "an edge is up before", early.up)
	session := w.nodes.session("early")
	p := w.proxy()
	config := w.clientTLS("cut")
	dials, atOnce, budget, least := 3000, 50, 6000, 2000
	if protocol == transport.QUIC {
		// Nobody is told of a cut: each lasts as long as the hub's patience. And the handshake has more bytes.
		dials, budget, least = 1000, 10_000, 500
	}
	before := measure()
	p.setBudget(budget) // some get no ServerHello, some all but the last word, and a few are through
	var ended, refused atomic.Int64
	var wg sync.WaitGroup
	next := make(chan struct{}, dials)
	for range dials {
		next <- struct{}{}
	}
	close(next)
	for range atOnce {
		wg.Go(func() {
			for range next {
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				s, err := dial(ctx, p.addr(), config)
				cancel()
				switch {
				case err == nil:
					_ = s.Close() // the budget was enough, which some are
				case errors.Is(err, transport.ErrRefused):
					refused.Add(1)
				default:
					ended.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d dials: %d ended as refused, %d by time or the network", dials, refused.Load(), ended.Load())
	if n := refused.Load() + ended.Load(); n < int64(least) {
		t.Errorf("%d of %d dials were cut, expected at least %d", n, dials, least)
	}
	if w.nodes.session("early") != session {
		t.Error("the edge that was there lost its session")
	}
	honest := w.join("honest", edgeConfig{})
	eventually(t, "an honest edge gets in", honest.up)
	honest.stop()
	p.setBudget(0)
	p.cut()
	before.settles(t)
}
