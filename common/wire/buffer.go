package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// sharedMin is the size in bytes from which a body is referred to: below it a copy is smaller than the reference's cost.
const sharedMin = 512

// A Buffer gathers frames to be written together. The bodies of objects and replies stay where they are: an object that a
// thousand edges are being sent is in memory once. Nothing that a Buffer refers to may change before Reset. The zero value is
// empty.
type Buffer struct {
	own  []byte // all but the bodies that are referred to
	cuts []cut
	size int
}

// cut is a body that comes after the first at bytes of own.
type cut struct {
	at   int
	body []byte
}

// Len is how many bytes the frames take on the stream.
func (b *Buffer) Len() int { return b.size }

// Reset empties b. It keeps little memory.
func (b *Buffer) Reset() {
	clear(b.cuts)
	b.own, b.cuts, b.size = b.own[:0], b.cuts[:0], 0
	if cap(b.own) > 64<<10 {
		b.own = nil
	}
	if cap(b.cuts) > 1<<10 {
		b.cuts = nil
	}
}

// Append adds a frame with its length prefix. It fails on a frame of more than MaxFrame bytes. Nobody else may read f meanwhile.
func (b *Buffer) Append(f *Frame) error {
	size := proto.Size(f)
	if size > MaxFrame {
		return fmt.Errorf("write %s of %d bytes, limit %d: %w", Name(f), size, MaxFrame, ErrTooLarge)
	}
	before := b.size
	b.own = binary.BigEndian.AppendUint32(b.own, uint32(size))
	b.size += headerSize
	if err := b.appendFrame(f); err != nil {
		return fmt.Errorf("write %s: %w", Name(f), err)
	}
	if got := b.size - before - headerSize; got != size {
		return fmt.Errorf("write %s: the frame changed while it was written (%d bytes, then %d)", Name(f), size, got)
	}
	return nil
}

// Chunks are the bytes of all frames in order. They are good until the next Append or Reset.
func (b *Buffer) Chunks() [][]byte {
	chunks := make([][]byte, 0, 2*len(b.cuts)+1)
	from := 0
	for _, c := range b.cuts {
		if c.at > from {
			chunks = append(chunks, b.own[from:c.at])
		}
		chunks = append(chunks, c.body)
		from = c.at
	}
	if from < len(b.own) {
		chunks = append(chunks, b.own[from:])
	}
	return chunks
}

// Numbers of the fields that have bodies, or messages with bodies, in them (wire.proto).
const (
	batchNumber protowire.Number = 4
	writeNumber protowire.Number = 7
	replyNumber protowire.Number = 13
	itemsNumber protowire.Number = 2
	itemBody    protowire.Number = 7
	writeBody   protowire.Number = 7
	replyBody   protowire.Number = 4
)

func (b *Buffer) appendFrame(f *Frame) error {
	switch m := f.Body.(type) {
	case *Frame_Batch:
		b.head(batchNumber, proto.Size(m.Batch))
		items := m.Batch.Items
		m.Batch.Items = nil
		err := b.marshal(m.Batch)
		m.Batch.Items = items
		for i := 0; i < len(items) && err == nil; i++ {
			err = b.withBody(itemsNumber, items[i], itemBody, &items[i].Body)
		}
		return err
	case *Frame_Reply:
		return b.withBody(replyNumber, m.Reply, replyBody, &m.Reply.Body)
	case *Frame_Write:
		return b.withBody(writeNumber, m.Write, writeBody, &m.Write.Body)
	}
	return b.marshal(f)
}

// withBody appends a message as field number, and its body, which *body is, last: the order of fields means nothing.
func (b *Buffer) withBody(number protowire.Number, m proto.Message, bodyNumber protowire.Number, body *[]byte) error {
	b.head(number, proto.Size(m))
	shared := *body
	if len(shared) < sharedMin {
		return b.marshal(m)
	}
	*body = nil
	err := b.marshal(m)
	*body = shared
	if err != nil {
		return err
	}
	b.head(bodyNumber, len(shared))
	b.cuts = append(b.cuts, cut{len(b.own), shared})
	b.size += len(shared)
	return nil
}

// head appends what comes before the bytes of a field of that length.
func (b *Buffer) head(number protowire.Number, length int) {
	before := len(b.own)
	b.own = protowire.AppendTag(b.own, number, protowire.BytesType)
	b.own = protowire.AppendVarint(b.own, uint64(length))
	b.size += len(b.own) - before
}

func (b *Buffer) marshal(m proto.Message) (err error) {
	before := len(b.own)
	b.own, err = proto.MarshalOptions{}.MarshalAppend(b.own, m)
	b.size += len(b.own) - before
	return err
}
