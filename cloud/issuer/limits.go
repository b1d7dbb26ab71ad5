package issuer

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/lru"
)

// Rates of requests: of one address (a /64 in IPv6) and of all together. A site behind one address may join twenty
// gateways at once, then two a second.
const (
	addressRate, addressBurst = 2, 20
	totalRate, totalBurst     = 100, 400
	// maxAddresses bounds the memory: an address that is forgotten starts anew.
	maxAddresses = 4096
)

// limits bounds the rate of requests.
type limits struct {
	now   func() time.Time
	total *rate.Limiter

	mu        sync.Mutex // makes get and add of byAddress one step
	byAddress *lru.Cache
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, total: rate.NewLimiter(totalRate, totalBurst), byAddress: lru.New(maxAddresses)}
}

// take counts a request from host:port and returns how long to stay away, 0 if it may go on.
func (l *limits) take(remote string) time.Duration {
	now := l.now()
	key := group(remote)
	l.mu.Lock()
	var own *rate.Limiter
	if v, ok := l.byAddress.Get(key); ok {
		own = v.(*rate.Limiter)
	} else {
		own = rate.NewLimiter(addressRate, addressBurst)
		l.byAddress.Add(key, own)
	}
	l.mu.Unlock()
	if !own.AllowN(now, 1) {
		return time.Second
	}
	if !l.total.AllowN(now, 1) {
		return 5 * time.Second
	}
	return 0
}

// group is what shares a rate: the address, or its /64 where one customer has that many.
func group(remote string) string {
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
