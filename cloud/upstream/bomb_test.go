package upstream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// pack compresses n bytes of a text that repeats. declared, where it is not 0, is the size that its header claims.
func pack(t *testing.T, text string, n int, declared uint32) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	out := enc.EncodeAll(bytes.Repeat([]byte(text), n/len(text)), nil)
	if declared != 0 {
		// RFC 8878, 3.1.1: magic number, frame header descriptor, and where that says so four bytes of the content's size.
		if out[4]>>6 != 2 {
			t.Fatalf("the frame header's descriptor is %#x, expected a size of four bytes", out[4])
		}
		binary.LittleEndian.PutUint32(out[5:], declared)
	}
	return out
}

// manyIn makes JSON of as many empty list entries as a body may have bytes for.
func manyIn(before, after string) []byte {
	n := (wire.MaxBody - len(before) - len(after)) / 3
	return []byte(before + strings.Repeat("{},", n-1) + "{}" + after)
}

// field is one of a protobuf message.
func field(n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
}

// envelope is an object with that ObjectMeta as Kubernetes encodes it: a runtime.Unknown with a TypeMeta and the object.
func envelope(apiVersion, kind string, meta []byte) []byte {
	types := append(field(1, []byte(apiVersion)), field(2, []byte(kind))...)
	return append(append([]byte("k8s\x00"), field(1, types)...), field(2, field(1, meta))...)
}

// cost runs f and returns how many bytes it allocated.
func cost(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A few hundred bytes, compressed, must not become hundreds of MiB or hours of work in the hub.
func TestABombGoesOffNowhere(t *testing.T) {
	a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return respond(201, protobufType, nil), nil })
	c, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(b []byte) []byte { out, _ := c.Compress(b); return out }
	event := envelope("v1", "Event", bytes.Repeat(field(17, nil), 1_000_000))
	csiNode := envelope("storage.k8s.io/v1", "CSINode", bytes.Repeat(field(17, nil), 1_000_000))

	write := func(kind, ns, name string, op wire.Op, body []byte) func() int32 {
		return func() int32 {
			r := a.Apply(background(t), "n1", &wire.Write{Kind: kind, Namespace: ns, Name: name, Uid: "u", Op: op, Body: body, Compression: wire.Compression_COMPRESSION_ZSTD})
			if !r.Final {
				t.Errorf("the answer is not final: %v", r)
			}
			return r.Code
		}
	}
	call := func(contentType string, body []byte) func() int32 {
		return func() int32 {
			return a.Call(background(t), "n1", &wire.Call{Verb: "create", Kind: "nodes", Name: "n1", ContentType: contentType, Body: body}).Code
		}
	}
	const huge = 512 << 20
	for name, do := range map[string]func() int32{
		"write, size declared":         write("nodes", "", "n1", wire.Op_OP_OVERLAY, pack(t, "0", huge, 0)),
		"write, size understated":      write("nodes", "", "n1", wire.Op_OP_OVERLAY, pack(t, "0", huge, 200)),
		"write, at the limit":          write("nodes", "", "n1", wire.Op_OP_OVERLAY, pack(t, "0", huge, wire.MaxBody)),
		"write, empty entries":         write("pods", "shop", "till", wire.Op_OP_OVERLAY, squeeze(manyIn(`{"pod":{"containerStatuses":[`, `]}}`))),
		"write, deep":                  write("pods", "shop", "till", wire.Op_OP_OVERLAY, squeeze([]byte(strings.Repeat(`{"pod":`, wire.MaxBody/7)))),
		"write, a far quantity":        write("nodes", "", "n1", wire.Op_OP_OVERLAY, squeeze([]byte(`{"node":{"capacity":{"a":"1e999999999999","b":"`+strings.Repeat("0", 100)+`"}}}`))),
		"write, an event of entries":   write("events", "shop", "till.1", wire.Op_OP_CREATE, squeeze(event)),
		"write, a CSINode of entries":  write(string(object.CSINodes), "", "n1", wire.Op_OP_PUT, squeeze(csiNode)),
		"call, compressed":             call(jsonType, pack(t, "0", huge, 0)),
		"call, compressed as protobuf": call(protobufType, pack(t, "0", huge, 0)),
		"call, empty entries":          call(jsonType, manyIn(`{"metadata":{"name":"n1"},"status":{"conditions":[`, `]}}`)),
		"call, protobuf of entries":    call(protobufType, event),
		"call, a far quantity":         call(jsonType, []byte(`{"metadata":{"name":"n1"},"status":{"capacity":{"cpu":"1e999999999999"}}}`)),
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan string, 1)
			go func() {
				var code int32
				if took := cost(func() { code = do() }); code != 400 || took > 24<<20 {
					done <- fmt.Sprintf("got %d after allocating %d MiB, expected 400 after 24 MiB at most", code, took>>20)
				}
				close(done)
			}()
			select {
			case fault := <-done:
				if fault != "" {
					t.Error(fault)
				}
			case <-time.After(20 * time.Second):
				t.Error("it still computes after 20 s")
			}
		})
	}
	if n := len(s.requests()); n > 0 {
		t.Errorf("%d requests went to the API server", n)
	}
}
