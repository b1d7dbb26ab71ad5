package tunnel

import "sync"

// circles are the connections that are being passed on, by what their callers said first. Where two CloudCores take each other for the holder
// of a node, for a moment after a change, one comes back to who passed it on, from whatever address: it is known by the random bytes of its
// ClientHello, which nobody else can guess. The zero value is ready, and safe for concurrent use.
type circles struct {
	mu    sync.Mutex // guards under
	under map[string]bool
}

// telling is how many bytes tell a connection from others: a record's header of 5, a message's of 4, a version of 2 and 32 random ones (RFC 8446,
// section 4.1.2).
const telling = 5 + 4 + 2 + 32

// enter notes a connection until left is called, or reports that it is known already. Of too few bytes it knows nothing.
func (c *circles) enter(first []byte) (left func(), known bool) {
	if len(first) < telling {
		return func() {}, false
	}
	key := string(first[:telling])
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under[key] {
		return nil, true
	}
	if c.under == nil {
		c.under = map[string]bool{}
	}
	c.under[key] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.under, key)
	}, false
}
