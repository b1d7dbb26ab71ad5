package transport

import (
	"encoding/binary"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// mergedReads is how many reads of a merged socket are one system call.
	mergedReads = 4
	// maxMerged is the most that the kernel merges, in bytes.
	maxMerged = 64 << 10
	// maxControl has room for the control messages of one read: size of what was merged, traffic class and packet info, the
	// last two of both families.
	maxControl = 256
)

// merged is a UDP socket for QUIC of which the kernel merges packets of one size that come from one peer together (UDP_GRO,
// Linux 5.0): they go through it as one. ReadBatch, which one goroutine may call, gives them one by one. It costs mergedReads
// times maxMerged bytes, in memory as far as they were ever used.
type merged struct {
	*net.UDPConn
	packets *ipv4.PacketConn // in spite of its name for both families
	room    []ipv4.Message
	sizes   [mergedReads]int // of each packet that was merged into one of room

	// came is the part of room that the last read filled, and of which read, from at on, is what ReadBatch gives next.
	came     []ipv4.Message
	read, at int
}

// quic-go looks for the method, and reads from the socket itself if it is not there.
var _ interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
} = lossy{}

// merge returns c with packets merged where the kernel knows how to.
func merge(c *net.UDPConn) *merged {
	m := &merged{UDPConn: c, packets: ipv4.NewPacketConn(c), room: make([]ipv4.Message, mergedReads)}
	for i := range m.room {
		m.room[i] = ipv4.Message{Buffers: [][]byte{make([]byte, maxMerged)}, OOB: make([]byte, maxControl)}
	}
	if raw, err := c.SyscallConn(); err == nil {
		// Where it fails, each packet comes alone.
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
	}
	return m
}

// ReadBatch waits for packets and fills as many as there are into ms, which have one buffer each.
func (m *merged) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if m.read == len(m.came) {
		n, err := m.packets.ReadBatch(m.room, flags)
		if err != nil {
			return 0, err
		}
		m.came, m.read, m.at = m.room[:n], 0, 0
		for i := range m.came {
			m.came[i].NN, m.sizes[i] = takeSize(m.came[i].OOB[:m.came[i].NN])
			if m.sizes[i] <= 0 {
				m.sizes[i] = maxMerged
			}
		}
	}
	n := 0
	for ; n < len(ms) && m.read < len(m.came); n++ {
		m.give(&ms[n])
	}
	return n, nil
}

// give fills in the next packet.
func (m *merged) give(to *ipv4.Message) {
	from := &m.came[m.read]
	packet := from.Buffers[0][m.at:min(m.at+m.sizes[m.read], from.N)]
	to.N, to.NN, to.Flags, to.Addr = copy(to.Buffers[0], packet), copy(to.OOB, from.OOB[:from.NN]), from.Flags, from.Addr
	if m.at += len(packet); m.at == from.N {
		m.read, m.at = m.read+1, 0
	}
}

// takeSize takes the size of the packets that were merged out of control messages, 0 if none were, and returns how long the
// others are, which it moves together: they hold for each of the packets.
func takeSize(control []byte) (kept, size int) {
	for rest := control; len(rest) > 0; {
		header, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return kept + copy(control[kept:], rest), size // for quic-go to say
		}
		whole := rest[:len(rest)-len(next)]
		if header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(data) >= 4 {
			size = int(binary.NativeEndian.Uint32(data))
		} else {
			kept += copy(control[kept:], whole)
		}
		rest = next
	}
	return kept, size
}
