package issuer

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/utils/lru"

	"github.com/tether-edge/tether/common/transport"
)

// Rates of requests: of one address (a /64 in IPv6) and of all strangers together. A site behind one address may join twenty
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

// take counts a request from host:port and returns how long to stay away, 0 if it may go on. known reports whether the asker
// is a node: strangers, however many, must not keep nodes from their renewals.
func (l *limits) take(remote string, known func() bool) time.Duration {
	now := l.now()
	key := transport.AddressGroup(remote)
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
	if !known() && !l.total.AllowN(now, 1) {
		return 5 * time.Second
	}
	return 0
}
