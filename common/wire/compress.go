package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressMin is the size in bytes below which compression is not tried.
const compressMin = 96

// dictionaryID names the dictionary in the header of each zstd frame. A changed dictionary takes a new number and a
// feature in Hello and Welcome.
const dictionaryID = 1

// A Compressor compresses and decompresses bodies. It is safe for concurrent use; a process needs one. Most objects
// have a few hundred bytes, mostly field names and values that every object has, so both ends start from a
// dictionary of these.
type Compressor struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCompressor returns a Compressor with small windows, for objects of up to MaxBody.
func NewCompressor() (*Compressor, error) { return newCompressor(zstd.SpeedDefault) }

// NewSmallCompressor returns one whose encoder takes 0.7 MB and not 3.3: an edge compresses little, and has little memory.
func NewSmallCompressor() (*Compressor, error) { return newCompressor(zstd.SpeedFastest) }

func newCompressor(level zstd.EncoderLevel) (*Compressor, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(64<<10), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true),
		zstd.WithEncoderDictRaw(dictionaryID, []byte(dictionary)))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderDictRaw(dictionaryID, []byte(dictionary)))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Compressor{enc: enc, dec: dec}, nil
}

// Compress returns body compressed, or body itself and false where that is not smaller.
func (c *Compressor) Compress(body []byte) (out []byte, compressed bool) {
	if len(body) < compressMin {
		return body, false
	}
	out = c.enc.EncodeAll(body, make([]byte, 0, len(body)/2))
	if len(out) >= len(body) {
		return body, false
	}
	return out, true
}

// Decompress is the inverse of Compress. It returns an error for damaged input, for input that has more or fewer bytes
// after decompression than its header declares, and for more than MaxBody.
func (c *Compressor) Decompress(body []byte) ([]byte, error) {
	var h zstd.Header
	switch err := h.Decode(body); {
	case err != nil:
		return nil, fmt.Errorf("decompress body of %d bytes: %w", len(body), err)
	case !h.HasFCS:
		return nil, fmt.Errorf("decompress body of %d bytes: its header declares no size: %w", len(body), ErrGarbage)
	case h.FrameContentSize > MaxBody:
		return nil, fmt.Errorf("decompress body of %d bytes: %d after decompression, limit %d: %w", len(body), h.FrameContentSize, MaxBody, ErrTooLarge)
	}
	out, err := c.dec.DecodeAll(body, make([]byte, 0, h.FrameContentSize))
	if err != nil {
		return nil, fmt.Errorf("decompress body of %d bytes, declared as %d: %w", len(body), h.FrameContentSize, err)
	}
	return out, nil
}

// OpenSize is how many bytes Open may take for a body: the size that the body declares, which Open does not exceed.
// Nothing is decompressed for it.
func OpenSize(body []byte, how Compression) int {
	if how == Compression_COMPRESSION_NONE {
		return len(body)
	}
	var h zstd.Header
	if err := h.Decode(body); err != nil || !h.HasFCS || h.FrameContentSize > MaxBody {
		return len(body) // Open will refuse it
	}
	return len(body) + int(h.FrameContentSize)
}

// Open returns a body as sent, decompressed where the frame says so.
func (c *Compressor) Open(body []byte, how Compression) ([]byte, error) {
	switch how {
	case Compression_COMPRESSION_NONE:
		if len(body) > MaxBody {
			return nil, fmt.Errorf("body of %d bytes, limit %d: %w", len(body), MaxBody, ErrTooLarge)
		}
		return body, nil
	case Compression_COMPRESSION_ZSTD:
		return c.Decompress(body)
	}
	return nil, fmt.Errorf("compression %d is not known here, expected %v or %v: %w", how, Compression_COMPRESSION_NONE,
		Compression_COMPRESSION_ZSTD, ErrGarbage)
}
