package hub

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tether-edge/tether/common/wire"
)

// A budget bounds what all edges together make the hub hold. There is one for what comes, writes and requests until they are answered,
// and one for replies until they are read: edges that do not read must not keep those waiting that write.
type budget struct {
	// limit is for what is yet to come; what has come and is to be opened may take as much again. So there is always something that is
	// with the API server and gives back what it has: those that wait to be opened have no more than limit between them.
	limit int64
	used  atomic.Int64

	// mu guards waiting, the sessions that wait until there is room again.
	mu      sync.Mutex
	waiting map[*conn]bool
}

// small is the size of what needs no room in a budget, in bytes: a flood of large things must not keep heartbeats waiting, nor the
// writes that nodes make most. Each edge may have maxWrites of them.
const small = wire.Unreserved

func newBudget(limit int64) *budget { return &budget{limit: limit, waiting: map[*conn]bool{}} }

// spent reports that the budget is used up, and has c woken once it is not.
func (b *budget) spent(c *conn) bool {
	if b.used.Load() < b.limit {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used.Load() < b.limit {
		return false
	}
	b.waiting[c] = true
	return true
}

// take notes that n bytes more are held for c, unless so much is used already: then c is woken once less is.
func (b *budget) take(c *conn, n int, limit int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used.Load() >= limit {
		b.waiting[c] = true
		return false
	}
	b.used.Add(int64(n))
	return true
}

// add notes that n bytes more are held, or less.
func (b *budget) add(n int) {
	now := b.used.Add(int64(n))
	fell := func(limit int64) bool { return now < limit && now-int64(n) >= limit }
	if !fell(b.limit) && !fell(2*b.limit) {
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

// wanted reports whether a session waits for room.
func (b *budget) wanted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) > 0
}

// leave forgets a session that has ended.
func (b *budget) leave(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, c)
}

// Nobody knows how large a reply will be: room is kept for one of the size of the last, which the first is taken to have.
const firstReply, leastReply = 256 << 10, 4 << 10

// came is what the hub holds of what the edge sent, in bytes, with what is being read. Called with mu held, as are all below.
func (c *conn) came() int { return c.asked + c.machine.Held() + c.reading }

// replies is what the edge has not read, and what room is kept for.
func (c *conn) replies() int { return c.owed + c.asking*c.expect }

// account tells the budgets what changed. What ends with the session is let go once it has.
func (c *conn) account() {
	came, replies := c.came(), c.replies()
	if c.over {
		came, replies = 0, 0
	}
	if came != c.counted {
		c.hub.arriving.add(came - c.counted)
		c.counted = came
	}
	if replies != c.promised {
		c.hub.replies.add(replies - c.promised)
		c.promised = replies
	}
}

// mayAsk reports whether another request of the edge may be made.
func (c *conn) mayAsk() bool {
	if c.asking == 0 && c.owed == 0 {
		return true
	}
	return c.asking < maxAsking && c.owed+(c.asking+1)*c.expect <= maxHeld && !c.hub.replies.spent(c)
}

// replied notes the size of a reply.
func (c *conn) replied(size int) { c.expect = max(size, c.expect/2, leastReply) }

// wait waits until ok, or the session ends, which it reports by false. What the edge says meanwhile is not heard: so that neither end
// takes the other for dead, the hub talks to it, and answers for it.
func (c *conn) wait(ok func() bool) bool {
	if c.over || c.ending != nil {
		return false
	}
	if ok() {
		return true
	}
	waiting := true
	var talk *time.Timer
	talk = time.AfterFunc(talkEvery, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !waiting || c.over {
			return
		}
		if c.waiting && !slices.ContainsFunc(c.queue, func(f *wire.Frame) bool { return f.GetPing() != nil }) {
			c.queue = append(c.queue, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: rand.Uint64() | 1<<63, LeaseAgeMs: -1}}})
			c.kick()
		}
		c.vouch()
		talk.Reset(talkEvery)
		c.room.Broadcast() // for Heard
	})
	defer func() { waiting = false; talk.Stop() }()
	for !c.over && c.ending == nil && !ok() {
		c.machine.Heard(c.hub.deps.Now()) // it is the hub that keeps the edge waiting
		c.waiting = true
		c.room.Wait()
		c.waiting = false
	}
	return !c.over && c.ending == nil
}

// talkEvery is how often an edge that is kept waiting hears from the hub: more than once between two of its pings.
const talkEvery = 5 * time.Second

// vouchFor is how long the hub answers for an edge whose pings are behind something that the hub does not read, or that takes its time to
// come: what the last one said of the kubelet counts as said now. An edge that is gone meanwhile ends its connection, or the kernel does.
const vouchFor = 5 * time.Minute

func (c *conn) vouch() {
	now := c.hub.deps.Now()
	if !c.alive.IsZero() && now.Sub(c.alive) < vouchFor {
		c.hub.deps.Nodes.Alive(c.node, c.id, c.aliveSaid.LeaseAge, c.aliveSaid.PingInterval)
	}
}

// reserve waits until there is room for a frame of that size, of which a part was read. Called without mu, by the reader.
func (c *conn) reserve(size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wait(func() bool { return c.grow(size, c.hub.arriving.limit) }) {
		return false
	}
	c.pace = 0
	return true
}

// grow notes that what is being read takes that much, if there is room.
func (c *conn) grow(size int, limit int64) bool {
	if !c.hub.arriving.take(c, size-c.reading, limit) {
		return false
	}
	c.counted += size - c.reading
	c.reading = size
	return true
}

// A frame for which room is kept has to come: piece bytes of it within slow, or within quick while others wait for room. 64 kbit/s bring
// that much in eight seconds.
const (
	piece       = 64 << 10
	slow, quick = time.Minute, 10 * time.Second
)

// paced sees to that before each read. Called by the reader.
func (c *conn) paced() error {
	if c.reading == 0 || c.pace > 0 {
		return nil
	}
	c.pace = piece
	within := slow
	if c.hub.arriving.wanted() {
		within = quick
	}
	return c.stream.SetReadDeadline(time.Now().Add(within))
}

// opened is what a frame takes that an edge sends, decompressed: of the kinds that wait for an answer.
func opened(f *wire.Frame) int {
	switch b := f.Body.(type) {
	case *wire.Frame_Write:
		return wire.OpenSize(b.Write.GetBody(), b.Write.GetCompression())
	case *wire.Frame_Call:
		return len(b.Call.GetBody())
	}
	return 0
}
