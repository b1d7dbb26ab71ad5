package mqtt

import (
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A session is what the broker keeps of a client beside the library's own state: what is stored of it, and how much.
type session struct {
	durable bool // outlives its connection
	// under are the packets under way by their id, which is unique among both directions.
	under map[uint16]entry
	bytes int // of payloads in under
	// A client numbers its packets by itself, and the library keeps both directions in one table. Where a client's number
	// is taken, inner has ours by the client's, and peer the client's by ours.
	inner, peer map[uint16]uint16
	// stale is set when the library dropped a message that is in under, without saying which.
	stale bool
}

type entry struct {
	kind   byte // packets.Publish, Pubrel: to the client; Pubrec: from it
	size   int
	serial uint64
	stored bool
}

// table holds the sessions and the groups of changes. It is embedded in broker.
type table struct {
	mu       sync.Mutex // guards the fields below
	sessions map[string]*session
	owners   map[string]*conn // the newest connection of each client
	groups   map[string]*group
	serial   uint64
	bytes    int // of all sessions
}

// A group is what one publication changes, committed together: the messages to durable sessions, the retained message and
// the note that a QoS 2 message was taken.
type group struct {
	changes []Change
	// of each change: the entry that it stores, if it is one.
	entries []stored
}

type stored struct {
	client string
	id     uint16
	serial uint64
}

// session returns the client's, a new one if it has none.
func (b *broker) session(client string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[client]
	if s == nil {
		s = &session{under: map[uint16]entry{}, inner: map[uint16]uint16{}, peer: map[uint16]uint16{}}
		b.sessions[client] = s
	}
	b.metrics.sessions.Set(float64(len(b.sessions)))
	return s
}

// end forgets a session and all that is stored of it.
func (b *broker) end(cl *mochi.Client) {
	changes := []Change{{Bucket: bucketSessions, Key: cl.ID}}
	for filter := range cl.State.Subscriptions.GetAll() {
		changes = append(changes, Change{Bucket: bucketSubscriptions, Key: subscriptionKey(cl.ID, filter)})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[cl.ID]; s != nil {
		for id := range s.under {
			changes = append(changes, Change{Bucket: bucketInflight, Key: inflightKey(cl.ID, id)})
		}
		b.weigh(-s.bytes)
		delete(b.sessions, cl.ID)
		b.metrics.sessions.Set(float64(len(b.sessions)))
		if s.durable {
			b.journal.add(changes...)
		}
	}
}

func (b *broker) weigh(n int) {
	b.bytes += n
	b.metrics.queued.Set(float64(b.bytes))
}

// full says why no more may wait for a client: too much does for it, or for all; empty if more may. Where others fill the room, a
// client still has an equal share of it, so that those who read are served.
func (b *broker) full(client string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch s := b.sessions[client]; {
	case s == nil:
		return ""
	case s.bytes >= b.cfg.Limits.QueueBytes:
		return "queue"
	case b.bytes >= 2*b.cfg.Limits.QueuedBytes, b.bytes >= b.cfg.Limits.QueuedBytes && s.bytes >= b.cfg.Limits.QueuedBytes/len(b.sessions):
		return "queues"
	}
	return ""
}

// begin notes a packet that is under way and returns the change that stores it, or false if the session is not durable.
func (b *broker) begin(cl *mochi.Client, pk packets.Packet) (Change, stored, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[cl.ID]
	if s == nil {
		return Change{}, stored{}, false
	}
	b.reconcile(cl, s)
	if old, ok := s.under[pk.PacketID]; ok {
		if old.kind == pk.FixedHeader.Type && old.stored {
			return Change{}, stored{}, false // sent again
		}
		s.bytes -= old.size
		b.weigh(-old.size)
	}
	b.serial++
	size := 0
	if pk.FixedHeader.Type == packets.Publish {
		size = len(pk.Payload) + len(pk.TopicName)
	}
	s.under[pk.PacketID] = entry{pk.FixedHeader.Type, size, b.serial, s.durable}
	s.bytes += size
	b.weigh(size)
	if !s.durable {
		return Change{}, stored{}, false
	}
	record := inflightRecord{messageRecord(cl.ID, pk), s.peer[pk.PacketID], pk.Expiry}
	return put(bucketInflight, inflightKey(cl.ID, pk.PacketID), record), stored{cl.ID, pk.PacketID, b.serial}, true
}

// finish forgets a packet that was under way, and deletes it if it is stored. It returns the ticket of that.
func (b *broker) finish(cl *mochi.Client, id uint16) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[cl.ID]
	if s == nil {
		return 0
	}
	b.reconcile(cl, s)
	return b.journal.add(b.drop(cl.ID, s, id)...)
}

func (b *broker) drop(client string, s *session, id uint16) []Change {
	e, ok := s.under[id]
	if !ok {
		return nil
	}
	delete(s.under, id)
	s.bytes -= e.size
	b.weigh(-e.size)
	if !e.stored {
		return nil
	}
	return []Change{{Bucket: bucketInflight, Key: inflightKey(client, id)}}
}

// reconcile drops what the library has dropped: it tells that it does, before it does, and not which message.
func (b *broker) reconcile(cl *mochi.Client, s *session) {
	if !s.stale {
		return
	}
	for id, e := range s.under {
		if _, ok := cl.State.Inflight.Get(id); !ok && e.kind == packets.Publish {
			s.stale = false
			b.journal.add(b.drop(cl.ID, s, id)...)
		}
	}
}

func (b *broker) markStale(client string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[client]; s != nil {
		s.stale = true
	}
}

// restore is begin for what was loaded.
func (b *broker) restore(r inflightRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[r.Client]
	if s == nil {
		return
	}
	size := 0
	if r.FixedHeader.Type == packets.Publish {
		size = len(r.Payload) + len(r.TopicName)
	}
	b.serial++
	s.under[r.PacketID] = entry{r.FixedHeader.Type, size, b.serial, true}
	s.bytes += size
	b.weigh(size)
	if r.Peer != 0 {
		s.inner[r.Peer], s.peer[r.PacketID] = r.PacketID, r.Peer
	}
}

// open starts a group and returns the token that its packets carry.
func (b *broker) open() (string, *group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serial++
	token, g := mochi.Int64toa(int64(b.serial)), &group{}
	b.groups[token] = g
	return token, g
}

// shut ends a group: nothing joins it any more.
func (b *broker) shut(token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.groups, token)
}

// join adds a change to the group of that token, or to the journal if there is none.
func (b *broker) join(token string, c Change, e stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.groups[token]; g != nil {
		g.changes, g.entries = append(g.changes, c), append(g.entries, e)
		return
	}
	b.journal.add(c)
}

// commit queues what is in g, but for messages that their clients have acknowledged meanwhile.
func (b *broker) commit(g *group, more ...Change) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var changes []Change
	for i, e := range g.entries {
		if s := b.sessions[e.client]; e.serial != 0 && (s == nil || s.under[e.id].serial != e.serial) {
			continue
		}
		changes = append(changes, g.changes[i])
	}
	return b.journal.add(append(changes, more...)...)
}

// ours returns the packet id under which a packet of the client's is kept: the client's own, unless one of ours has it.
func (b *broker) ours(cl *mochi.Client, id uint16) uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[cl.ID]
	if s == nil {
		return id
	}
	if in, ok := s.inner[id]; ok {
		return in
	}
	pk, taken := cl.State.Inflight.Get(id)
	if !taken || pk.FixedHeader.Type != packets.Publish && pk.FixedHeader.Type != packets.Pubrel {
		return id
	}
	for in := uint16(65535); in > 0; in-- {
		_, taken := cl.State.Inflight.Get(in)
		_, mapped := s.peer[in]
		if !taken && !mapped {
			s.inner[id], s.peer[in] = in, id
			return in
		}
	}
	return id
}

// theirs is the reverse of ours; with done the number is free again.
func (b *broker) theirs(cl *mochi.Client, id uint16, done bool) uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[cl.ID]
	if s == nil {
		return id
	}
	peer, ok := s.peer[id]
	if !ok {
		return id
	}
	if done {
		delete(s.peer, id)
		delete(s.inner, peer)
	}
	return peer
}
