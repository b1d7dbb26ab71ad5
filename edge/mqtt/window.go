package mqtt

import (
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A window is which messages are on their way to a client: no more than it said it takes at a time (Receive Maximum, [MQTT-3.3.4-9]), and the
// rest in the order in which they came. The library sends what waited for a session all at once, from the goroutine that then reads the
// acknowledgements: that one cannot wait, so its messages do.
type window struct {
	size    int // 0: no bound
	unacked map[uint16]bool
	held    []delivery
	bytes   int // of held
}

type delivery struct {
	id     uint16
	packet []byte
}

// full reports whether a message with that packet id has to wait.
func (w *window) full(id uint16) bool {
	return w.size > 0 && !w.unacked[id] && (len(w.held) > 0 || len(w.unacked) >= w.size)
}

// pass returns what of the whole packets in p may be sent now, appended to out, and keeps the rest.
func (w *window) pass(out, p []byte) []byte {
	for len(p) > 0 {
		n, id := measure(p)
		switch {
		case id == 0:
			out = append(out, p[:n]...)
		case w.full(id):
			w.held = append(w.held, delivery{id, append([]byte(nil), p[:n]...)})
			w.bytes += n
		default:
			w.unacked[id] = true
			out = append(out, p[:n]...)
		}
		p = p[n:]
	}
	return out
}

// acked notes that a message is acknowledged, or given up, and returns what may be sent now, appended to out.
func (w *window) acked(out []byte, id uint16) []byte {
	delete(w.unacked, id)
	kept := w.held[:0]
	for _, m := range w.held {
		switch {
		case m.id == id:
			w.bytes -= len(m.packet)
		case len(w.unacked) < w.size:
			w.unacked[m.id] = true
			w.bytes -= len(m.packet)
			out = append(out, m.packet...)
		default:
			kept = append(kept, m)
		}
	}
	clear(w.held[len(kept):])
	w.held = kept
	return out
}

// measure returns the length of the first packet in p, which is what the library encoded, and its packet id if it is a message of QoS 1 or 2.
func measure(p []byte) (n int, id uint16) {
	length, shift, header := 0, 0, 1
	for ; header < len(p) && header <= 4; header++ {
		length |= int(p[header]&0x7f) << shift
		shift += 7
		if p[header]&0x80 == 0 {
			header++
			break
		}
	}
	n = min(header+length, len(p))
	if p[0]>>4 != packets.Publish || p[0]>>1&3 == 0 || n < header+2 {
		return n, 0
	}
	at := header + 2 + int(binary.BigEndian.Uint16(p[header:]))
	if n < at+2 {
		return n, 0
	}
	return n, binary.BigEndian.Uint16(p[at:])
}
