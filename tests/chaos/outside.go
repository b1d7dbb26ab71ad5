package chaos

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// outside is what a site needs of its network to reach a CloudCore by name: a name server that knows one domain, and a proxy
// for CONNECT. Each can be dead.
type outside struct {
	names    net.PacketConn
	proxies  net.Listener
	resolved map[string]netip.Addr

	mu                 sync.Mutex // guards what follows
	noNames, noProxies bool
	conns              map[net.Conn]bool
}

// newOutside serves at an address: names at port 53, the proxy at any.
func newOutside(address string, resolved map[string]netip.Addr) (*outside, error) {
	o := &outside{resolved: resolved, conns: map[net.Conn]bool{}}
	var err error
	if o.names, err = net.ListenPacket("udp", net.JoinHostPort(address, "53")); err != nil {
		return nil, fmt.Errorf("serve names: %w", err)
	}
	if o.proxies, err = net.Listen("tcp", net.JoinHostPort(address, "0")); err != nil {
		return nil, errors.Join(fmt.Errorf("serve a proxy: %w", err), o.names.Close())
	}
	go o.serveNames()
	go o.serveProxy()
	return o, nil
}

func (o *outside) close() error {
	o.killProxy(true)
	return errors.Join(o.names.Close(), o.proxies.Close())
}

// silenceNames keeps the name server from answering, or lets it.
func (o *outside) silenceNames(yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noNames = yes
}

// killProxy ends all that goes through the proxy and lets nothing through it, or lets it again.
func (o *outside) killProxy(yes bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.noProxies = yes; yes {
		for c := range o.conns {
			_ = c.Close()
		}
	}
}

func (o *outside) serveNames() {
	b := make([]byte, 512)
	for {
		n, from, err := o.names.ReadFrom(b)
		if err != nil {
			return
		}
		o.mu.Lock()
		silent := o.noNames
		o.mu.Unlock()
		if reply := o.reply(b[:n]); reply != nil && !silent {
			_, _ = o.names.WriteTo(reply, from) // who does not hear it asks again
		}
	}
}

// reply answers one question of RFC 1035 (4.1): the address of a name, nothing for another type, NXDOMAIN for another name. nil if it
// cannot be read.
func (o *outside) reply(query []byte) []byte {
	const header, internet, addressType = 12, 1, 1
	if len(query) < header {
		return nil
	}
	var labels []string
	at := header
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end > len(query) {
			return nil
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	if at+5 > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[at+1:])
	address, known := o.resolved[strings.ToLower(strings.Join(labels, "."))]
	reply := append([]byte{}, query[:at+5]...)
	binary.BigEndian.PutUint16(reply[2:], 0x8180) // an answer, recursion desired and available
	binary.BigEndian.PutUint16(reply[4:], 1)
	clear(reply[6:header])
	switch {
	case !known:
		reply[3] |= 3 // NXDOMAIN
	case kind == addressType:
		binary.BigEndian.PutUint16(reply[6:], 1)
		reply = append(reply, 0xc0, header, 0, addressType, 0, internet, 0, 0, 0, 1, 0, 4)
		reply = append(reply, address.AsSlice()...)
	}
	return reply
}

func (o *outside) serveProxy() {
	for {
		c, err := o.proxies.Accept()
		if err != nil {
			return
		}
		go o.connect(c)
	}
}

// connect serves one connection to the proxy.
func (o *outside) connect(c net.Conn) {
	defer o.forget(c)
	if !o.remember(c) {
		return
	}
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	host, port, err := net.SplitHostPort(req.Host)
	if err != nil {
		return
	}
	if address, ok := o.resolved[host]; ok {
		host = address.String()
	}
	to, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), 5*time.Second)
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer o.forget(to)
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil || !o.remember(to) {
		return
	}
	done := make(chan struct{}, 2)
	pass := func(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from); done <- struct{}{} }
	go pass(to, in)
	go pass(c, to)
	<-done
}

// remember returns false while the proxy is dead.
func (o *outside) remember(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conns[c] = true
	return !o.noProxies
}

func (o *outside) forget(c net.Conn) {
	_ = c.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.conns, c)
}

// linked waits until the edge is in step with the cloud.
func (f *fault) linked() error {
	return until(f.ctx, restWithin, "the link to be back", func() error { return f.w.synced(f.ctx) })
}

func (w *world) synced(ctx context.Context) error {
	s, err := w.status(ctx)
	if err == nil && !s.Link.Synced {
		err = fmt.Errorf("it is %+v", s.Link)
	}
	return err
}
