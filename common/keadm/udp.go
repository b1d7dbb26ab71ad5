package keadm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

const (
	// udpTries are made, and udpWait is waited for each answer: one lost packet is no finding.
	udpTries = 2
	udpWait  = 2 * time.Second
)

// udp asks each CloudCore over UDP whether it speaks QUIC, where edgecore is to use it.
func (p *preflight) udp(ctx context.Context, add adder) {
	cloud := p.config.Cloud
	if cloud.Protocol == v1alpha1.ProtocolWebSocket || cloud.QUICPort == 0 {
		return
	}
	alone := cloud.Protocol == v1alpha1.ProtocolQUIC
	var silent []string
	asked := 0
	for _, server := range cloud.Servers {
		// What is reached through a proxy is not raced by QUIC, which goes past it.
		if proxied, err := p.ports.proxy.For(server); !alone && (err != nil || proxied) {
			continue
		}
		host, _, _ := net.SplitHostPort(server)
		address := net.JoinHostPort(host, strconv.Itoa(cloud.QUICPort))
		asked++
		if err := speaksQUIC(ctx, address, p.udpWait); err != nil {
			silent = append(silent, fmt.Sprintf("%s: %v", address, err))
		}
	}
	if len(silent) == 0 {
		return
	}
	found := "no QUIC from " + strings.Join(silent, "; ")
	if !alone {
		add(false, "udp", found, "nothing has to be done: the link uses WebSocket then; or let UDP to that port through firewalls (--set cloud.quicPort names another)")
		return
	}
	add(asked == len(silent), "udp", found, "let UDP to that port through firewalls, name CloudCore's with --set cloud.quicPort, or join with --hub-protocol auto")
}

// speaksQUIC returns nil if a server of QUIC answers at host:port.
func speaksQUIC(ctx context.Context, address string, wait time.Duration) error {
	var err error
	for range udpTries {
		if err = askQUIC(ctx, address, wait); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func askQUIC(ctx context.Context, address string, wait time.Duration) error {
	conn, err := (&net.Dialer{Timeout: wait}).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	server, client := id[:8], id[8:]
	if _, err := conn.Write(unknownVersion(server, client)); err != nil {
		return err
	}
	answer := make([]byte, 2048)
	for {
		n, err := conn.Read(answer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no answer within %s", wait)
		}
		var op *net.OpError
		if errors.As(err, &op) {
			return op.Err // without the addresses
		}
		if err != nil {
			return err
		}
		if isVersionNegotiation(answer[:n], server, client) {
			return nil
		}
	}
}

// nobodysVersion is one of those that RFC 9000, section 15, keeps free to make servers tell theirs.
var nobodysVersion = []byte{0x0a, 0x0a, 0x0a, 0x0a}

// unknownVersion is a packet with a long header (RFC 9000, section 17.2) of a version that no server knows, to which it
// answers with Version Negotiation (section 6.1). It has the 1200 bytes below which a server says nothing.
func unknownVersion(destination, source []byte) []byte {
	p := append([]byte{0xc0}, nobodysVersion...)
	p = append(append(p, byte(len(destination))), destination...)
	p = append(append(p, byte(len(source))), source...)
	return append(p, make([]byte, 1200-len(p))...)
}

// isVersionNegotiation reports whether p is the answer to unknownVersion(destination, source) of RFC 9000, section 17.2.1:
// version 0, the ids turned round, and a list of versions of four bytes each.
func isVersionNegotiation(p, destination, source []byte) bool {
	head := append([]byte{0, 0, 0, 0, byte(len(source))}, source...)
	head = append(append(head, byte(len(destination))), destination...)
	if len(p) == 0 || p[0]&0x80 == 0 || !bytes.HasPrefix(p[1:], head) {
		return false
	}
	versions := len(p) - 1 - len(head)
	return versions > 0 && versions%4 == 0
}
