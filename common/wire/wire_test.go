package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func TestFrameRoundTrip(t *testing.T) {
	frames := []*Frame{
		{Body: &Frame_Hello{Hello: &Hello{Versions: Versions(), Node: "n", Kinds: []*KindDigest{{Kind: "pods", Count: 2, Sum0: 1 << 63}}}}},
		{Body: &Frame_Batch{Batch: &Batch{Seq: 7, Items: []*Item{{Kind: "pods", Namespace: "a", Name: "b", Body: bytes.Repeat([]byte("x"), 1<<20)}}}}},
		{Body: &Frame_Ack{Ack: &Ack{Seq: 7}}},
	}
	var buf []byte
	for _, f := range frames {
		var err error
		if buf, err = Append(buf, f); err != nil {
			t.Fatal(err)
		}
	}
	r := bytes.NewReader(buf)
	for i, want := range frames {
		got, err := Read(r, MaxFrame)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !proto.Equal(got, want) {
			t.Errorf("frame %d: got %v, want %v", i, got, want)
		}
	}
	if _, err := Read(r, MaxFrame); err != io.EOF {
		t.Errorf("after the last frame: got %v, want io.EOF", err)
	}
}

func TestOversizeFrameIsRefusedBeforeItIsRead(t *testing.T) {
	prefix := binary.BigEndian.AppendUint32(nil, MaxHandshakeFrame+1)
	_, err := Read(bytes.NewReader(prefix), MaxHandshakeFrame)
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "expected at most 65536") {
		t.Errorf("got %v, want ErrTooLarge that names the limit", err)
	}
	big := &Frame{Body: &Frame_Batch{Batch: &Batch{Items: []*Item{{Body: make([]byte, MaxFrame)}}}}}
	if _, err := Append(nil, big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Append of an oversize frame: got %v, want ErrTooLarge", err)
	}
}

func TestTruncatedAndGarbageFramesAreErrors(t *testing.T) {
	buf, err := Append(nil, &Frame{Body: &Frame_Hello{Hello: &Hello{Node: "edge-1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(buf); n++ {
		if _, err := Read(bytes.NewReader(buf[:n]), MaxFrame); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: got %v, want io.ErrUnexpectedEOF", n, len(buf), err)
		}
	}
	garbage := append(binary.BigEndian.AppendUint32(nil, 3), 0xff, 0xff, 0xff)
	if _, err := Read(bytes.NewReader(garbage), MaxFrame); !errors.Is(err, ErrGarbage) {
		t.Errorf("garbage: got %v, want ErrGarbage", err)
	}
}

// Two bytes of an empty list entry take a hundred once they are parsed: 4 MiB of them would take hundreds.
func TestAFrameOfManyEmptyEntriesIsRefusedBeforeItIsParsed(t *testing.T) {
	for name, f := range map[string]*Frame{
		"inventory": {Body: &Frame_Inventory{Inventory: &Inventory{Entries: repeat(&InventoryEntry{}, MaxFields+1)}}},
		"batch":     {Body: &Frame_Batch{Batch: &Batch{Items: repeat(&Item{}, MaxFields+1)}}},
		"hello":     {Body: &Frame_Hello{Hello: &Hello{Features: repeat("", MaxFields+1)}}},
	} {
		b, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(b); !errors.Is(err, ErrGarbage) || !strings.Contains(err.Error(), "more than 16384 fields") {
			t.Errorf("%s: got %v, expected ErrGarbage that names the limit", name, err)
		}
		var before, after runtime.MemStats
		many := bytes.Repeat([]byte{0x12, 0}, 2<<20) // of an inventory of 4 MiB
		many = append(protowire.AppendVarint([]byte{3<<3 | 2}, uint64(len(many))), many...)
		runtime.ReadMemStats(&before)
		_, err = Parse(many)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 1<<20 {
			t.Errorf("4 MiB of empty entries: %v after allocating %d bytes, expected an error after 1 MiB at most", err, took)
		}
	}
	largest := &Frame{Body: &Frame_Inventory{Inventory: &Inventory{Entries: repeat(&InventoryEntry{Name: "a"}, MaxInventoryEntries)}}}
	b, err := proto.Marshal(largest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Errorf("an inventory of the size that is allowed: %v", err)
	}
}

func TestWhatANewerPeerAddedIsNotHeld(t *testing.T) {
	inner := protowire.AppendBytes(protowire.AppendTag([]byte{1 << 3, 7}, 99, protowire.BytesType), make([]byte, 1<<20)) // a Write of id 7
	f, err := Parse(protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), inner))
	if err != nil || f.GetWrite().GetId() != 7 {
		t.Fatalf("got %v, %v", f, err)
	}
	if n := proto.Size(f); n > 100 {
		t.Errorf("a write with an unknown field of 1 MiB is held as %d bytes", n)
	}
}

func repeat[T any](v T, n int) []T { return slices.Repeat([]T{v}, n) }

func TestUnknownFrameFromANewerPeerIsNamedUnknown(t *testing.T) {
	f, err := Parse([]byte{0xfa, 0x06, 0x00}) // field 111, length-delimited, empty
	if err != nil {
		t.Fatal(err)
	}
	if Name(f) != "unknown" {
		t.Errorf("got %q, want unknown", Name(f))
	}
	if Name(&Frame{Body: &Frame_Ping{Ping: &Ping{}}}) != "ping" {
		t.Errorf("a ping is named %q", Name(&Frame{Body: &Frame_Ping{Ping: &Ping{}}}))
	}
}

// Each end opens what the other's compressor made.
func TestCompressionRoundTripAndLimits(t *testing.T) {
	large, err := NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	small, err := NewSmallCompressor()
	if err != nil {
		t.Fatal(err)
	}
	for way, ends := range map[string][2]*Compressor{"down": {large, small}, "up": {small, large}} {
		t.Run(way, func(t *testing.T) { testCompression(t, ends[0], ends[1]) })
	}
}

func testCompression(t *testing.T, from, to *Compressor) {
	rnd := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 4096)
	rnd.Read(noise)
	for name, body := range map[string][]byte{
		"empty": nil, "short": []byte("abc"), "text": bytes.Repeat([]byte("kube-api-access-"), 100), "noise": noise,
		"megabyte": bytes.Repeat(noise, 256),
	} {
		out, packed := from.Compress(body)
		how := Compression_COMPRESSION_NONE
		if packed {
			how = Compression_COMPRESSION_ZSTD
		}
		got, err := to.Open(out, how)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes came back as %d, error %v", name, len(body), len(got), err)
		}
		if name == "text" && len(out) > 80 {
			t.Errorf("text of 1600 bytes takes %d compressed", len(out))
		}
		if name == "noise" && packed {
			t.Errorf("noise was sent compressed though that saves nothing")
		}
	}
	bomb, _ := from.Compress(make([]byte, MaxBody+1))
	if _, err := to.Open(bomb, Compression_COMPRESSION_ZSTD); err == nil {
		t.Errorf("a body of %d bytes was decompressed to more than MaxBody", len(bomb))
	}
	if _, err := to.Open([]byte("x"), 77); !errors.Is(err, ErrGarbage) {
		t.Errorf("unknown compression: got %v, want ErrGarbage", err)
	}
}

func TestASmallCompressorIsSmall(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	size := func(made func() (*Compressor, error)) uint64 {
		before := heap()
		c, err := made()
		if err != nil {
			t.Fatal(err)
		}
		c.Compress(bytes.Repeat([]byte("kube-api-access-"), 1000))
		defer runtime.KeepAlive(c)
		return heap() - before
	}
	if small, large := size(NewSmallCompressor), size(NewCompressor); small > 1<<20 || small > large/2 {
		t.Errorf("it takes %d bytes, the other one %d", small, large)
	}
}

func FuzzRead(f *testing.F) {
	for _, fr := range []*Frame{
		{Body: &Frame_Hello{Hello: &Hello{Node: "n"}}},
		{Body: &Frame_Inventory{Inventory: &Inventory{Kind: "pods", Entries: []*InventoryEntry{{Name: "x"}}}}},
		{Body: &Frame_Write{Write: &Write{Id: 1, Op: Op_OP_OVERLAY, Body: []byte("{}")}}},
	} {
		b, err := Append(nil, fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := Read(bytes.NewReader(b), MaxHandshakeFrame)
		if err != nil {
			return
		}
		if _, err := Append(nil, fr); err != nil {
			t.Errorf("a frame that was read cannot be written: %v", err)
		}
	})
}

// A body says beforehand how much memory it takes, and cannot take more.
func TestABodyDeclaresItsSize(t *testing.T) {
	c, err := NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{compressMin, 200, 300, 1024, 5000, 100_000, MaxBody} {
		packed, ok := c.Compress(make([]byte, n))
		if !ok {
			t.Fatalf("%d zeros do not compress", n)
		}
		if got := OpenSize(packed, Compression_COMPRESSION_ZSTD); got != len(packed)+n {
			t.Errorf("%d bytes, compressed to %d: declared as %d in all", n, len(packed), got)
		}
		if out, err := c.Open(packed, Compression_COMPRESSION_ZSTD); err != nil || len(out) != n {
			t.Errorf("%d bytes come back as %d: %v", n, len(out), err)
		}
	}
	small, _ := c.Compress(make([]byte, 200))
	large, _ := c.Compress(make([]byte, MaxBody))
	if out, err := c.Open(append(small, large...), Compression_COMPRESSION_ZSTD); err == nil {
		t.Errorf("a body declared as 200 bytes was opened to %d", len(out))
	}
	plain, err := zstd.NewWriter(nil, zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(plain.EncodeAll(make([]byte, 200), nil), Compression_COMPRESSION_ZSTD); !errors.Is(err, ErrGarbage) {
		t.Errorf("a body without a declared size: %v, expected ErrGarbage", err)
	}
	if got := OpenSize(make([]byte, 300), Compression_COMPRESSION_NONE); got != 300 {
		t.Errorf("300 bytes as they are: %d", got)
	}
}

func FuzzDecompress(f *testing.F) {
	c, err := NewCompressor()
	if err != nil {
		f.Fatal(err)
	}
	seed, _ := c.Compress(bytes.Repeat([]byte("default"), 100))
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := c.Decompress(b); err == nil && len(out) > MaxBody {
			t.Errorf("%d bytes after decompression", len(out))
		}
	})
}
