package state

// causes remembers, in bounded memory, the uids of the pods that went because their Node was gone. Whatever is not in it
// was deleted for a reason of its own.
type causes struct {
	known map[string]struct{}
	// ring holds the uids in order of arrival; next is the place of the oldest once it is full.
	ring []string
	next int
	max  int
}

func newCauses(limit int) *causes { return &causes{known: map[string]struct{}{}, max: limit} }

func (c *causes) remember(uid string) {
	if c.has(uid) {
		return
	}
	c.known[uid] = struct{}{}
	if len(c.ring) < c.max {
		c.ring = append(c.ring, uid)
		return
	}
	delete(c.known, c.ring[c.next])
	c.ring[c.next] = uid
	c.next = (c.next + 1) % c.max
}

func (c *causes) has(uid string) bool {
	_, ok := c.known[uid]
	return ok
}
