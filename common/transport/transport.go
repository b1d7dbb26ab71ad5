// Package transport carries the link's byte stream: WebSocket over mutual TLS 1.3, QUIC, and in memory for tests.
//
// It promises that an accepted stream comes from a peer whose certificate was verified, that connections in their
// handshake are bounded before TLS costs anything, and that a failed dial says whether the network or the peer refused
// (ErrRefused), since the edge backs off from the latter only. cloud/hub and edge/link use it; common/wire gives the
// bytes their meaning.
package transport

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Stream is one ordered byte stream with the peer's identity. One goroutine reads; any may write, and a Write is
// whole. Close may be called at any time, more than once, and makes both fail.
type Stream interface {
	io.ReadWriteCloser
	// WriteAll writes the chunks as one Write of them all would, without putting them together. Each pieceSize bytes have the time
	// each to go: what takes long because it is much is no fault of the peer's. A write deadline holds for all of it.
	WriteAll(chunks [][]byte, each time.Duration) error
	// SetReadDeadline and SetWriteDeadline make a Read or Write that is still blocked at t fail. Zero means never.
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// Peer is the verified certificate of the other end.
	Peer() *x509.Certificate
	// RemoteAddr is the other end's address, for logs.
	RemoteAddr() string
	// Protocol is what carries the stream.
	Protocol() Protocol
}

// Protocol names what carries a stream.
type Protocol string

// The protocols.
const (
	WebSocket Protocol = "websocket"
	QUIC      Protocol = "quic"
	Memory    Protocol = "memory"
)

// ErrRefused marks a dial that reached the peer and was refused by it: TLS or HTTP said no, or the connection was
// closed inside the handshake. Trying again at once would not help.
var ErrRefused = errors.New("the server refused the connection")

// ErrBusy marks a dial to a server that had no room for another handshake: another try may find some.
var ErrBusy = errors.New("the server has no room for another handshake")

// A RefusedError is an ErrRefused with what the server said.
type RefusedError struct {
	// Status is the HTTP status, 0 if it did not come to HTTP.
	Status int
	// RetryAfter is when the server wants to be asked again; 0 if it did not say.
	RetryAfter time.Duration
	Err        error
}

func (e *RefusedError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("%v with HTTP status %d: %v", ErrRefused, e.Status, e.Err)
	}
	return fmt.Sprintf("%v: %v", ErrRefused, e.Err)
}

// Unwrap makes errors.Is work for ErrRefused and the cause.
func (e *RefusedError) Unwrap() []error { return []error{ErrRefused, e.Err} }
