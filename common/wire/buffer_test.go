package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"
)

// framesWithBodies are frames of every way in which a Buffer treats a body.
func framesWithBodies(size int) []*Frame {
	body := bytes.Repeat([]byte{'x'}, size)
	return []*Frame{
		{Body: &Frame_Ping{Ping: &Ping{Id: 1, LeaseAgeMs: -1}}},
		{Body: &Frame_Batch{Batch: &Batch{}}},
		{Body: &Frame_Batch{Batch: &Batch{Seq: 7, Items: []*Item{
			{Kind: "pods", Namespace: "a", Name: "b", Uid: "u", ResourceVersion: 1 << 40, Body: body, Compression: Compression_COMPRESSION_ZSTD},
			{KindIndex: 3, Name: "gone", Uuid: body[:min(16, size)], Cause: Cause_CAUSE_DELETED},
			{Kind: "configmaps", Name: "c", Body: body},
		}}}},
		{Body: &Frame_Reply{Reply: &Reply{Id: 3, Code: 200, Body: body}}},
		{Body: &Frame_Write{Write: &Write{Id: 4, Kind: "pods", Name: "b", Body: body, Priority: -3}}},
		{Body: &Frame_Pong{Pong: &Pong{Id: 9}}},
	}
}

func TestABufferHoldsWhatAppendWouldWrite(t *testing.T) {
	for _, size := range []int{0, 1, sharedMin - 1, sharedMin, sharedMin + 1, 127 << 10} {
		frames := framesWithBodies(size)
		var b Buffer
		for round := range 2 {
			for _, f := range frames {
				want := proto.Clone(f)
				if err := b.Append(f); err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(f, want) {
					t.Fatalf("a frame of size %d was changed: %v", size, f)
				}
			}
			all := bytes.Join(b.Chunks(), nil)
			if len(all) != b.Len() {
				t.Errorf("size %d: %d bytes in chunks, Len says %d", size, len(all), b.Len())
			}
			r := bytes.NewReader(all)
			for i, want := range frames {
				got, err := Read(r, MaxFrame)
				if err != nil {
					t.Fatalf("size %d, frame %d, round %d: %v", size, i, round, err)
				}
				if !proto.Equal(got, want) {
					t.Errorf("size %d, frame %d: read %v, want %v", size, i, got, want)
				}
			}
			if _, err := Read(r, MaxFrame); !errors.Is(err, io.EOF) {
				t.Errorf("size %d: after the last frame: %v, want EOF", size, err)
			}
			b.Reset()
			if b.Len() != 0 || len(b.Chunks()) != 0 {
				t.Errorf("after Reset there are %d bytes", b.Len())
			}
		}
	}
}

func TestABufferRefersToBodiesAndCopiesNone(t *testing.T) {
	const size = 1 << 20
	frames := framesWithBodies(size)
	var b Buffer
	for _, f := range frames {
		if err := b.Append(f); err != nil {
			t.Fatal(err)
		}
	}
	shared := &frames[3].GetReply().Body[0]
	found := 0
	for _, c := range b.Chunks() {
		if len(c) == size && &c[0] == shared {
			found++
		}
	}
	if found != 4 || cap(b.own) > 4<<10 {
		t.Errorf("%d of 4 bodies are referred to, and %d bytes are the buffer's own, want few", found, cap(b.own))
	}
}

func TestABufferRefusesAFrameThatIsTooLarge(t *testing.T) {
	var b Buffer
	err := b.Append(&Frame{Body: &Frame_Reply{Reply: &Reply{Body: make([]byte, MaxFrame)}}})
	if !errors.Is(err, ErrTooLarge) || b.Len() != 0 {
		t.Errorf("got %v and %d bytes, want ErrTooLarge and none", err, b.Len())
	}
}
