package transport

import (
	"crypto/tls"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notSent is how much the kernel may hold of a sync stream that it has not yet sent, in bytes (TCP_NOTSENT_LOWAT, tcp(7)). By
// default it takes megabytes for a peer that does not read, which no budget of this process sees, and a ping would wait behind
// all of them on a thin link.
const notSent = 64 << 10

// boundNotSent sets that bound, and how long the peer's kernel may be silent to what was sent: nobody else notices where the peer is not
// listened to for a while. Without them the stream works, so a connection of another kind is left as it is.
func boundNotSent(c *tls.Conn) {
	below := c.NetConn()
	if p, ok := below.(*placed); ok {
		below = p.Conn
	}
	sc, ok := below.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return // closed already
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
	})
}
