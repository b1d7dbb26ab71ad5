package transport

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// messages are so many for quic-go's end of ReadBatch, with buffers of its size.
func messages(n int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, 128)}
	}
	return ms
}

// control is one control message.
func control(level, kind int, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// TestWhatCameTogetherIsReadTogether, and given packet by packet, each with where it came from and the control messages that
// quic-go asked for.
func TestWhatCameTogetherIsReadTogether(t *testing.T) {
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	m := merge(near)
	if err := m.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}

	// What quic-go sends at once, in one system call: more packets than mergedReads, the last one shorter.
	var sent [][]byte
	for i := range 2*mergedReads + 1 {
		sent = append(sent, bytes.Repeat([]byte{byte(i)}, 1000))
	}
	sent = append(sent, []byte("short"))
	segments := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1000))
	if _, _, err := far.WriteMsgUDP(bytes.Join(sent, nil), segments, near.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	if _, err := far.WriteTo([]byte("alone"), near.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	sent = append(sent, []byte("alone"))

	var got [][]byte
	for calls := 0; len(got) < len(sent); calls++ {
		ms := messages(mergedReads + 1)
		n, err := m.ReadBatch(ms, 0)
		if err != nil {
			t.Fatalf("after %d packets: %v", len(got), err)
		}
		if calls == 0 && n != len(ms) {
			t.Errorf("the first %d packets were read together, expected %d: they did not come as one", n, len(ms))
		}
		for _, p := range ms[:n] {
			got = append(got, p.Buffers[0][:p.N])
			if p.Addr.String() != far.LocalAddr().String() {
				t.Errorf("packet %d is of %v, expected %v", len(got), p.Addr, far.LocalAddr())
			}
			if want := control(unix.IPPROTO_IP, unix.IP_TOS, []byte{0}); !bytes.Equal(p.OOB[:p.NN], want) {
				t.Errorf("packet %d has the control messages %x, expected its traffic class only, %x", len(got), p.OOB[:p.NN], want)
			}
		}
	}
	for i := range sent {
		if !bytes.Equal(got[i], sent[i]) {
			t.Errorf("packet %d has %d bytes, %.10q, expected %d, %.10q", i, len(got[i]), got[i], len(sent[i]), sent[i])
		}
	}
}

// TestTheHubHasPacketsMerged; that the edge has, its type says.
func TestTheHubHasPacketsMerged(t *testing.T) {
	s := serve(t, nil)
	s.protocol = QUIC
	client, hub := s.pair(t, "edge-1")
	exchange(t, client, hub)
	raw, err := s.packets.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	merges := 0
	if e := raw.Control(func(fd uintptr) { merges, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if merges != 1 {
		t.Errorf("UDP_GRO of the hub's socket is %d, expected 1", merges)
	}
}

func TestTheSizeOfWhatWasMergedIsTakenOut(t *testing.T) {
	size := control(unix.IPPROTO_UDP, unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, 1200))
	tos := control(unix.IPPROTO_IP, unix.IP_TOS, []byte{1})
	info := control(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12))
	cut := append(bytes.Clone(tos), size[:18]...)
	for what, c := range map[string]struct {
		all, kept []byte
		size      int
	}{
		"nothing":          {},
		"alone":            {all: tos, kept: tos},
		"first":            {join(size, tos, info), join(tos, info), 1200},
		"between":          {join(tos, size, info), join(tos, info), 1200},
		"last":             {join(tos, info, size), join(tos, info), 1200},
		"cut off":          {all: cut, kept: cut},
		"cut off after it": {join(size, cut), cut, 1200},
	} {
		all := bytes.Clone(c.all)
		n, size := takeSize(all)
		if size != c.size || !bytes.Equal(all[:n], c.kept) {
			t.Errorf("%s: %d bytes of each packet and %x for quic-go, expected %d and %x", what, size, all[:n], c.size, c.kept)
		}
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
