package state

// causes remembers, in bounded memory, which pods left which node because the Node was gone.
type causes struct {
	// known maps what is remembered to its place in ring, which holds the order of arrival; next is the place of the
	// oldest once ring is full. What was forgotten stays in ring until its turn.
	known map[cause]int
	ring  []cause
	next  int
	max   int
}

type cause struct {
	node string
	pod  name
}

func newCauses(limit int) *causes { return &causes{known: map[cause]int{}, max: limit} }

func (c *causes) remember(node string, pod name) {
	k := cause{node, pod}
	if _, ok := c.known[k]; ok {
		return
	}
	if len(c.ring) < c.max {
		c.known[k] = len(c.ring)
		c.ring = append(c.ring, k)
		return
	}
	oldest := c.ring[c.next]
	if at, ok := c.known[oldest]; ok && at == c.next {
		delete(c.known, oldest)
	}
	c.known[k] = c.next
	c.ring[c.next] = k
	c.next = (c.next + 1) % c.max
}

func (c *causes) forget(node string, pod name) { delete(c.known, cause{node, pod}) }

func (c *causes) has(node string, pod name) bool {
	_, ok := c.known[cause{node, pod}]
	return ok
}
