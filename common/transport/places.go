package transport

import (
	"net/netip"
	"sync"
)

// places bounds how many peers are served at once: in all, and of one address, so that one who holds all that he may leaves
// some to the others.
type places struct {
	total, each int

	mu    sync.Mutex // guards all below
	taken int
	by    map[string]int
}

func newPlaces(total int) *places {
	return &places{total: total, each: total - total/4, by: map[string]int{}}
}

// take reports whether there was a place for that address. One that was taken is given back once.
func (p *places) take(who string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.total || p.by[who] >= p.each {
		return false
	}
	p.taken++
	p.by[who]++
	return true
}

func (p *places) give(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
}

// free is how many places there are.
func (p *places) free() int {
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
