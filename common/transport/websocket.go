package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Path is the URL path of the sync stream. The hub answers other paths with 404.
const Path = "/tether/v1/sync"

// subprotocol makes a server of something else say no, instead of talking past us.
const subprotocol = "tether.v1"

// readBuffer is small, since a hub holds thousands of idle streams; large messages are read past it.
const readBuffer = 1 << 10

// writeBuffers are shared by all streams of the process: an idle stream holds none.
var writeBuffers = &sync.Pool{}

// webSocket is a Stream over one WebSocket connection: each Write is one binary message, and reads run across them.
type webSocket struct {
	ws     *websocket.Conn
	peer   *x509.Certificate
	reader io.Reader // rest of the message being read

	// writing orders whole messages: a goodbye may come while another goroutine writes.
	writing sync.Mutex
	// deadline is that of the Writes to come. gorilla's own must not be set while another goroutine writes.
	deadline writeDeadline
	closing  sync.Once
	err      error
}

func newWebSocket(ws *websocket.Conn) (*webSocket, error) {
	tc, ok := ws.NetConn().(*tls.Conn)
	if !ok {
		return nil, errors.New("the connection is not over TLS")
	}
	certs := tc.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil, errors.New("the peer showed no certificate")
	}
	boundNotSent(tc)
	// Nothing of it is used: pings are frames of the link, which carry what both ends must know.
	ws.SetPingHandler(func(string) error { return nil })
	ws.SetPongHandler(func(string) error { return nil })
	return &webSocket{ws: ws, peer: certs[0]}, nil
}

func (s *webSocket) Read(p []byte) (int, error) {
	for {
		if s.reader == nil {
			kind, r, err := s.ws.NextReader()
			if err != nil {
				return 0, ended(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("read WebSocket: got a text message, expected binary ones only")
			}
			s.reader = r
		}
		n, err := s.reader.Read(p)
		if errors.Is(err, io.EOF) {
			s.reader, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// ended turns an orderly end into io.EOF.
func ended(err error) error {
	if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
		return io.EOF
	}
	return err
}

func (s *webSocket) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ws.SetWriteDeadline(s.deadline.current()); err != nil {
		return 0, err
	}
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAll implements Stream by one message. What is large goes past gorilla's buffer, the rest is gathered there.
func (s *webSocket) WriteAll(chunks [][]byte, each time.Duration) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	w, err := s.ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	if err := writePieces(w, chunks, each, &s.deadline, s.ws.SetWriteDeadline); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.deadline.begin(time.Time{}, s.ws.NetConn().SetWriteDeadline)
}

func (s *webSocket) Close() error {
	s.closing.Do(func() {
		// A peer that is still there sees an orderly end; one that is not must not hold this one up.
		_ = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		s.err = s.ws.NetConn().(*tls.Conn).NetConn().Close()
	})
	return s.err
}

func (s *webSocket) SetReadDeadline(t time.Time) error { return s.ws.SetReadDeadline(t) }

func (s *webSocket) SetWriteDeadline(t time.Time) error {
	return s.deadline.set(t, s.ws.NetConn().SetWriteDeadline) // for the one that is blocked now
}

func (s *webSocket) Peer() *x509.Certificate { return s.peer }
func (s *webSocket) RemoteAddr() string      { return s.ws.RemoteAddr().String() }
func (s *webSocket) Protocol() Protocol      { return WebSocket }
