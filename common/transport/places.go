package transport

import (
	"net/netip"
	"sync"
)

// Places bounds how many peers are served at once: in all, and three quarters of that of one address (AddressGroup), so that
// one who holds all that he may leaves some to the others. Its methods are safe for concurrent use.
type Places struct {
	total, each int

	mu    sync.Mutex // guards all below
	taken int
	by    map[string]int
}

// NewPlaces returns so many.
func NewPlaces(total int) *Places {
	return &Places{total: total, each: total - total/4, by: map[string]int{}}
}

// Take reports whether there was a place for that address. One that was taken is given back once, with Give.
func (p *Places) Take(who string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.total || p.by[who] >= p.each {
		return false
	}
	p.taken++
	p.by[who]++
	return true
}

// Give gives a place of that address back.
func (p *Places) Give(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
}

// free is how many places there are.
func (p *Places) free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total - p.taken
}

// AddressGroup is what counts as one address of a peer at host:port: the IPv4 address, or the /64 of an IPv6 one, since one
// customer has that many.
func AddressGroup(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "unknown"
	}
	a := ap.Addr().Unmap()
	if a.Is4() {
		return a.String()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}
