package hub

import (
	"sync"
	"sync/atomic"
)

// A budget bounds what all edges together make the hub hold: writes and requests until they are answered, and replies until
// they are read. While it is used up, an edge that is owed more than its share is read no further; the others go on.
type budget struct {
	limit int64
	used  atomic.Int64

	// mu guards waiting, the sessions that wait until there is room again.
	mu      sync.Mutex
	waiting map[*conn]bool
}

// share is what each edge may have beside the budget, in bytes: a flood of some edges must not keep the others waiting.
const share = 16 << 10

func newBudget(limit int64) *budget { return &budget{limit: limit, waiting: map[*conn]bool{}} }

// spent reports that the budget is used up.
func (b *budget) spent() bool { return b.used.Load() >= b.limit }

// add notes that n bytes more are held, or less.
func (b *budget) add(n int) {
	now := b.used.Add(int64(n))
	if now >= b.limit || now-int64(n) < b.limit {
		return
	}
	b.mu.Lock()
	woken := b.waiting
	b.waiting = map[*conn]bool{}
	b.mu.Unlock()
	if len(woken) == 0 {
		return
	}
	// The caller holds the lock of its own session.
	go func() {
		for c := range woken {
			c.mu.Lock()
			c.room.Broadcast()
			c.mu.Unlock()
		}
	}()
}

// wait has c woken once there is room. It reports false if there is some.
func (b *budget) wait(c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.spent() {
		return false
	}
	b.waiting[c] = true
	return true
}

// leave forgets a session that has ended.
func (b *budget) leave(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, c)
}

// Nobody knows how large a reply will be: room is kept for one of the size of the last, which the first is taken to have.
const firstReply, leastReply = 256 << 10, 4 << 10

// held is what the hub holds for the edge, in bytes, and what it keeps room for. Called with mu held, as are all below.
func (c *conn) held() int { return c.asked + c.owed + c.asking*c.expect + c.machine.Held() }

// account tells the budget what changed.
func (c *conn) account() {
	n := 0
	if !c.over {
		n = c.held()
	}
	if n != c.counted {
		c.hub.budget.add(n - c.counted)
		c.counted = n
	}
}

// full reports that so much is held for the edge that nothing more is read from it.
func (c *conn) full() bool {
	n := c.held()
	return n >= maxHeld || n >= share && c.hub.budget.wait(c)
}

// mayAsk reports whether another request of the edge may be made.
func (c *conn) mayAsk() bool {
	if c.asking == 0 && c.owed == 0 {
		return true
	}
	return c.asking < maxAsking && c.owed+(c.asking+1)*c.expect <= maxHeld && !c.hub.budget.wait(c)
}

// replied notes the size of a reply.
func (c *conn) replied(size int) { c.expect = max(size, c.expect/2, leastReply) }
