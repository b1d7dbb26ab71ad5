package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// headerSize is the length of the prefix: the frame's size in bytes, big endian.
const headerSize = 4

// Errors of frames that break the protocol; test with errors.Is. The link is closed on any of them: what follows on
// the stream cannot be trusted.
var (
	ErrTooLarge = errors.New("frame is larger than the limit")
	ErrGarbage  = errors.New("frame is not a Tether frame")
)

// Append appends f with its length prefix to buf and returns the result. It fails on a frame of more than MaxFrame
// bytes.
func Append(buf []byte, f *Frame) ([]byte, error) {
	size := proto.Size(f)
	if size > MaxFrame {
		return nil, fmt.Errorf("write %s of %d bytes, limit %d: %w", Name(f), size, MaxFrame, ErrTooLarge)
	}
	start := len(buf)
	buf = binary.BigEndian.AppendUint32(buf, uint32(size))
	buf, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, f)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", Name(f), err)
	}
	if got := len(buf) - start - headerSize; got != size {
		return nil, fmt.Errorf("write %s: the frame changed while it was written (%d bytes, then %d)", Name(f), size, got)
	}
	return buf, nil
}

// Read reads one frame of at most limit bytes. It returns io.EOF where the stream ends between frames. Memory grows
// with the bytes that arrive, not with the size that the prefix claims.
func Read(r io.Reader, limit int) (*Frame, error) {
	return ReadReserving(r, limit, func(int) bool { return true })
}

// ErrNoRoom is what ReadReserving returns where there was none.
var ErrNoRoom = errors.New("there was no room for the frame")

// Unreserved is how much of a frame ReadReserving reads before it asks for room, in bytes: who announces a large frame has sent so much of it.
const Unreserved = 16 << 10

// ReadReserving is Read, which asks for room for a frame of more than Unreserved bytes before it reads more of it than that. reserve may block.
func ReadReserving(r io.Reader, limit int, reserve func(size int) bool) (*Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("read frame header: %w", err)
		}
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[:])
	if int64(size) > int64(limit) {
		return nil, fmt.Errorf("read frame: the prefix says %d bytes, expected at most %d: %w", size, limit, ErrTooLarge)
	}
	body := make([]byte, min(size, Unreserved))
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("read frame of %d bytes: %w", size, noEOF(err))
	}
	if size > Unreserved {
		if !reserve(int(size)) {
			return nil, ErrNoRoom
		}
		b := bytes.NewBuffer(body)
		if _, err := io.CopyN(b, r, int64(size)-Unreserved); err != nil {
			return nil, fmt.Errorf("read frame of %d bytes: %w", size, noEOF(err))
		}
		body = b.Bytes()
	}
	return Parse(body)
}

// Parse reads a frame without its prefix.
func Parse(body []byte) (*Frame, error) {
	if n := fields(body, 1); n > MaxFields {
		return nil, fmt.Errorf("parse frame of %d bytes: it has more than %d fields: %w", len(body), MaxFields, ErrGarbage)
	}
	f := &Frame{}
	// What a newer peer added is nothing to this version, and not to be held.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, f); err != nil {
		return nil, fmt.Errorf("parse frame of %d bytes: %w: %w", len(body), ErrGarbage, err)
	}
	return f, nil
}

// fields counts the fields of a message and, depth levels down, of those in it, until it has counted more than MaxFields.
// What is no message counts for nothing.
func fields(b []byte, depth int) (n int) {
	for len(b) > 0 && n <= MaxFields {
		number, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return n
		}
		b = b[size:]
		if size = protowire.ConsumeFieldValue(number, kind, b); size < 0 {
			return n
		}
		if kind == protowire.BytesType && depth > 0 {
			inner, _ := protowire.ConsumeBytes(b)
			n += fields(inner, depth-1)
		}
		b = b[size:]
		n++
	}
	return n
}

// Name returns the frame's body type, for logs: "batch". A frame with a body that this version does not know is
// "unknown": the peer is newer, and the frame is ignored.
func Name(f *Frame) string {
	m := f.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if fd == nil {
		return "unknown"
	}
	return string(fd.Name())
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
