package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// The side that opens a stream says what for in its first byte. The first stream of a QUIC connection is for the sync, and
// the server answers with accepted, or ends the connection with one of the codes below.
const (
	purposeSync   byte = 0
	purposeTunnel byte = 1 // towards the kubelet; opened by the hub
	accepted      byte = 0
)

// Codes with which a connection is closed (RFC 9000, section 10.2).
const (
	codeEnd     quic.ApplicationErrorCode = 0     // an orderly end
	codeGarbage quic.ApplicationErrorCode = 1     // the peer breaks these rules
	codeNotNow  quic.ApplicationErrorCode = 0x503 // the reason phrase is the decimal number of seconds to stay away
)

// alpn names the protocol in the TLS handshake.
const alpn = subprotocol

const (
	// lingering bounds how long the last words of a closed stream may take.
	lingering = 3 * time.Second
	// keepAlive keeps the path open through address translation, which forgets idle UDP after 30 s in many boxes.
	keepAlive = 20 * time.Second
	// silence ends a connection on which nothing came for so long. The link's own pings notice sooner.
	silence = 10 * time.Minute
)

// quicConfig is what both ends use. What a peer may send that was not read is bounded for each stream. The connection's own
// window, which would grow only as somebody reads, has room for all streams from the beginning: some that nobody reads
// must not hold up the sync.
func quicConfig(handshake time.Duration) *quic.Config {
	const all = (1 + MaxStreams) * StreamWindow
	return &quic.Config{
		HandshakeIdleTimeout:       handshake,
		MaxIdleTimeout:             silence,
		InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: StreamWindow,
		InitialConnectionReceiveWindow: all, MaxConnectionReceiveWindow: all,
		// The least that QUIC allows: tunnels and mobile networks pass it. Larger ones are found out later.
		InitialPacketSize:     1200,
		MaxIncomingUniStreams: -1,
	}
}

// quicStream is a Stream over one stream of a QUIC connection of its own.
type quicStream struct {
	conn   *quic.Conn
	stream *quic.Stream
	peer   *x509.Certificate

	// writing orders whole Writes, reading those who read: the last one discards what still comes.
	writing, reading sync.Mutex
	closing          sync.Once
	deadline         writeDeadline

	// mu guards closed and orders deadlines with it.
	mu     sync.Mutex
	closed bool
}

func newQUIC(conn *quic.Conn, stream *quic.Stream) (*quicStream, error) {
	certs := conn.ConnectionState().TLS.PeerCertificates
	if len(certs) == 0 {
		return nil, errors.New("the peer showed no certificate")
	}
	return &quicStream{conn: conn, stream: stream, peer: certs[0]}, nil
}

func (s *quicStream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := s.stream.Read(p)
	return n, s.ended(err)
}

func (s *quicStream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := s.stream.Write(p)
	return n, s.ended(err)
}

// gatherers are buffers for what is written in small chunks: of each, quic-go would make a wait.
var gatherers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 4<<10) }}

// WriteAll implements Stream. quic-go takes a large chunk as it is, and returns once it has packed it.
func (s *quicStream) WriteAll(chunks [][]byte, each time.Duration) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.isClosed() {
		return net.ErrClosed
	}
	w := gatherers.Get().(*bufio.Writer)
	w.Reset(s.stream)
	err := writePieces(w, chunks, each, &s.deadline, s.stream.SetWriteDeadline)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = s.deadline.begin(time.Time{}, s.stream.SetWriteDeadline)
	}
	w.Reset(nil)
	gatherers.Put(w)
	return s.ended(err)
}

// ended turns an orderly end into io.EOF.
func (s *quicStream) ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if s.isClosed() {
		return net.ErrClosed
	}
	var app *quic.ApplicationError
	if errors.As(err, &app) && app.Remote && app.ErrorCode == codeEnd {
		return io.EOF
	}
	return err
}

func (s *quicStream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close ends the stream in order: what was written is delivered to a peer that is still there, within lingering.
func (s *quicStream) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		_ = s.stream.SetReadDeadline(time.Now()) // it can only fail on a stream that ended
		s.mu.Unlock()
		go s.linger()
	})
	return nil
}

// linger says that nothing more comes, waits for the peer to say the same, and ends the connection. Ended at once, it
// would take along what was written and not yet sent.
func (s *quicStream) linger() {
	until := time.Now().Add(lingering)
	timer := time.AfterFunc(lingering, func() { _ = s.conn.CloseWithError(codeEnd, "") })
	defer timer.Stop()
	_ = s.stream.SetWriteDeadline(until)
	s.writing.Lock() // a Write that is under way
	_ = s.stream.Close()
	s.writing.Unlock()
	s.reading.Lock()
	defer s.reading.Unlock()
	_ = s.stream.SetReadDeadline(until)
	_, _ = io.Copy(io.Discard, s.stream)
	_ = s.conn.CloseWithError(codeEnd, "")
}

// Gone returns a channel that is closed once a stream that was closed has said its last words.
func Gone(s Stream) <-chan struct{} {
	if q, ok := s.(*quicStream); ok {
		return q.conn.Context().Done()
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

func (s *quicStream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return s.stream.SetReadDeadline(t)
}

func (s *quicStream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return s.deadline.set(t, s.stream.SetWriteDeadline)
}

func (s *quicStream) Peer() *x509.Certificate { return s.peer }
func (s *quicStream) RemoteAddr() string      { return s.conn.RemoteAddr().String() }
func (s *quicStream) Protocol() Protocol      { return QUIC }

// DialQUIC is Dial over QUIC: host:port is of UDP. QUIC goes through no proxy.
func DialQUIC(ctx context.Context, address string, config *tls.Config) (Stream, error) {
	s, err := dialQUIC(ctx, address, config)
	if err != nil {
		return nil, fmt.Errorf("dial %s by QUIC: %w", address, quicError(ctx, err))
	}
	return s, nil
}

// familyPause is how long an address of the one family has before one of the other is tried too (RFC 8305).
const familyPause = 250 * time.Millisecond

// dialQUIC dials one address of each family, at random, and takes the first that answers.
func dialQUIC(ctx context.Context, address string, config *tls.Config) (Stream, error) {
	addrs, err := resolveUDP(ctx, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		s   Stream
		err error
	}
	results := make(chan result)
	for i, addr := range addrs {
		go func() {
			select {
			case <-time.After(time.Duration(i) * familyPause):
			case <-ctx.Done():
			}
			s, err := dialAddr(ctx, addr, config)
			results <- result{s, err}
		}()
	}
	var won Stream
	var errs []error
	for range addrs {
		switch r := <-results; {
		case r.err != nil:
			errs = append(errs, r.err)
		case won == nil:
			won = r.s
			cancel() // before the others are waited for
		default:
			_ = r.s.Close()
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, errors.Join(errs...)
}

func dialAddr(ctx context.Context, addr *net.UDPAddr, config *tls.Config) (Stream, error) {
	// A socket bound to no address: the kernel chooses one for each packet, so that a connection outlives the address
	// that it began with.
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	t := &quic.Transport{Conn: lossy{merge(socket)}}
	config = config.Clone()
	config.NextProtos = []string{alpn}
	c := quicConfig(attempt)
	c.MaxIncomingStreams = MaxStreams
	c.KeepAlivePeriod = keepAlive
	conn, err := t.Dial(ctx, addr, config, c)
	if err != nil {
		return nil, errors.Join(err, t.Close(), socket.Close())
	}
	context.AfterFunc(conn.Context(), func() {
		_ = t.Close()
		_ = socket.Close()
	})
	s, err := openSync(ctx, conn)
	if err != nil {
		_ = conn.CloseWithError(codeEnd, "")
		return nil, err
	}
	return s, nil
}

// lossy is a socket for which a network that is not there is one that loses packets: quic-go would end the connection at
// the first error, and a gateway that changes its network has no route for a moment.
type lossy struct{ *merged }

func (c lossy) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if n, oobn, err = c.merged.WriteMsgUDP(b, oob, addr); lost(err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

func (c lossy) WriteTo(b []byte, addr net.Addr) (n int, err error) {
	if n, err = c.merged.WriteTo(b, addr); lost(err) {
		return len(b), nil
	}
	return n, err
}

func lost(err error) bool {
	for _, e := range []error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// attempt is how long a dial may hear nothing. The caller's context usually ends it before.
const attempt = 30 * time.Second

// openSync opens the stream and waits until the server has accepted it: only then is it known that the server verified
// our certificate.
func openSync(ctx context.Context, conn *quic.Conn) (Stream, error) {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Now()) })
	defer stop()
	if _, err := stream.Write([]byte{purposeSync}); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(stream, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != accepted {
		return nil, &RefusedError{Err: fmt.Errorf("it answered %#x to the opening of a stream, expected %#x", answer[0], accepted)}
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return newQUIC(conn, stream)
}

// resolveUDP returns one of the host's addresses of each family to which there is a route, at random: the next attempt may
// take other ones.
func resolveUDP(ctx context.Context, address string) ([]*net.UDPAddr, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(ips), func(i, j int) { ips[i], ips[j] = ips[j], ips[i] })
	var found []*net.UDPAddr
	families := map[bool]bool{}
	for _, ip := range ips {
		ip = ip.Unmap()
		if families[ip.Is4()] {
			continue
		}
		addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(number)))
		probe, e := net.DialUDP("udp", nil, addr) // sends nothing
		if e != nil {
			err = e
			continue
		}
		_ = probe.Close()
		families[ip.Is4()] = true
		found = append(found, addr)
	}
	if len(found) > 0 {
		return found, nil
	}
	return nil, err
}

// quicError tells refusals from a network that failed.
func quicError(ctx context.Context, err error) error {
	var (
		refused *RefusedError
		app     *quic.ApplicationError
		tr      *quic.TransportError
		version *quic.VersionNegotiationError
	)
	switch {
	case errors.As(err, &refused):
		return refused
	case ctx.Err() != nil:
		return err
	case errors.As(err, &app) && app.Remote && app.ErrorCode == codeNotNow:
		return &RefusedError{RetryAfter: retryAfter(app.ErrorMessage), Err: err}
	case errors.As(err, &app) && app.Remote, errors.As(err, &version):
		return &RefusedError{Err: err}
	case errors.As(err, &tr) && tr.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case errors.As(err, &tr) && tr.Remote && tr.ErrorCode.IsCryptoError():
		// As crypto/tls says it over TCP.
		return &RefusedError{Err: &net.OpError{Op: "remote error", Err: tls.AlertError(tr.ErrorCode - 0x100)}}
	case errors.As(err, &tr):
		return &RefusedError{Err: err}
	case errors.Is(err, io.EOF):
		return &RefusedError{Err: errors.New("it closed the stream inside the handshake")}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return err
}
