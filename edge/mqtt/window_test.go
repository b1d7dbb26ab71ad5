package mqtt

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	paho5 "github.com/eclipse/paho.golang/paho"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A client gets no more messages at a time than it said it takes, of those that waited for its session either [MQTT-3.3.4-9].
func TestAClientIsSentNoMoreThanItTakesAtATime(t *testing.T) {
	r := start(t, &ram{}, nil)
	first := dial5(t, r.Address(), "few", session5)
	first.subscribe(t, "a", 1)
	first.leave()
	c := dial(t, options(r.Address(), "from"))
	defer c.Disconnect(100)
	for i := range 6 {
		c.publish(t, "a", 1, false, fmt.Sprint(i))
	}
	few := dial5(t, r.Address(), "few", func(p *paho5.Connect) {
		session5(p)
		two := uint16(2)
		p.Properties.ReceiveMaximum = &two
	}, func(p *paho5.ClientConfig) { p.EnableManualAcknowledgment = true })
	c.publish(t, "a", 1, false, "6")
	var open []*paho5.Publish
	for i := range 7 {
		p := few.next(t)
		if string(p.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, p.Payload)
		}
		if open = append(open, p); len(open) < 2 {
			continue
		}
		// What was sent before this one's acknowledgement has arrived by then.
		if _, err := few.Publish(t.Context(), &paho5.Publish{Topic: "b", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if n := len(few.got); n > 0 {
			t.Fatalf("%d more while two are not acknowledged", n)
		}
		if err := few.Ack(open[0]); err != nil {
			t.Fatal(err)
		}
		open = open[1:]
	}
	if err := few.Ack(open[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing to wait", func() bool { return r.waiting("few") == 0 })
}

// What a window holds comes out whole, in order, and not at all once it is given up.
func TestAWindow(t *testing.T) {
	encode := func(qos byte, id uint16, n int) []byte {
		var b bytes.Buffer
		p := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, ProtocolVersion: 5, PacketID: id, TopicName: "topic", Payload: make([]byte, n)}
		if err := p.PublishEncode(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	w := window{size: 2, unacked: map[uint16]bool{}}
	var all []byte
	for id, n := range []int{1, 200, 20000, 3, 2100000} {
		all = append(all, encode(byte(1+id%2), uint16(id+1), n)...)
	}
	now, ping := encode(0, 0, 300), []byte{0xd0, 0}
	out := w.pass(nil, slices.Concat(now, all, ping))
	if want := slices.Concat(now, encode(1, 1, 1), encode(2, 2, 200), ping); !bytes.Equal(out, want) {
		t.Fatalf("%d bytes, expected %d", len(out), len(want))
	}
	if want := len(encode(1, 3, 20000)) + len(encode(2, 4, 3)) + len(encode(1, 5, 2100000)); w.bytes != want || !w.full(6) || w.full(1) {
		t.Fatalf("%d bytes are held, expected %d", w.bytes, want)
	}
	for _, step := range []struct {
		id   uint16
		want []byte
	}{{4, nil}, {2, encode(1, 3, 20000)}, {2, nil}, {1, encode(1, 5, 2100000)}, {3, nil}, {5, nil}} {
		if got := w.acked(nil, step.id); !bytes.Equal(got, step.want) {
			t.Fatalf("after %d come %d bytes, expected %d", step.id, len(got), len(step.want))
		}
	}
	if w.bytes != 0 || len(w.held) != 0 || len(w.unacked) != 0 || w.full(1) {
		t.Errorf("left: %+v", w)
	}
}

// Whatever is written, measure takes at least a byte of it and no more than there is.
func FuzzMeasure(f *testing.F) {
	f.Add([]byte{0x32, 5, 0, 1, 'a', 0, 7})
	f.Add([]byte{0x32, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 {
			return
		}
		if n, _ := measure(p); n < 1 || n > len(p) {
			t.Errorf("%d of %d", n, len(p))
		}
	})
}
