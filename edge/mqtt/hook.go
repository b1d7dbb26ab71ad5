package mqtt

import (
	"bytes"
	"errors"
	"sort"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where the library asks the broker. Unless said otherwise a method runs in the goroutine that reads from cl.
type hook struct {
	mochi.HookBase
	b *broker
	// loaded is what remains to be done with what was kept once the library has loaded it.
	loaded []func()
}

// ID is for the library's logs.
func (h *hook) ID() string { return "tether" }

// Provides says which of the methods below are asked.
func (h *hook) Provides(m byte) bool {
	switch m {
	case mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnSessionEstablished, mochi.OnDisconnect, mochi.OnClientExpired,
		mochi.OnACLCheck, mochi.OnSubscribe, mochi.OnSubscribed, mochi.OnUnsubscribed, mochi.OnPublish, mochi.OnPublishDropped,
		mochi.OnPacketIDExhausted, mochi.OnRetainMessage, mochi.OnRetainedExpired, mochi.OnPacketRead, mochi.OnPacketEncode,
		mochi.OnQosPublish, mochi.OnQosComplete, mochi.OnQosDropped,
		mochi.StoredClients, mochi.StoredSubscriptions, mochi.StoredInflightMessages, mochi.StoredRetainedMessages, mochi.StoredSysInfo:
		return true
	}
	return false
}

// maxClientID is the length of the longest client id, in bytes.
const maxClientID = 256

// OnConnect judges a CONNECT. What it refuses is told why.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	c := cl.Net.Conn.(*conn)
	if !h.b.gate.connected(c) {
		return errors.New("closed for a newer connection")
	}
	refuse := func(reason string, code packets.Code) error {
		h.b.metrics.refused.WithLabelValues(reason).Inc()
		if cl.Properties.ProtocolVersion < 5 { // the library has no words of MQTT 3 for these two
			switch code {
			case packets.ErrServerBusy, packets.ErrQuotaExceeded:
				code = packets.ErrServerUnavailable
			case packets.ErrNotAuthorized:
				code = packets.ErrBadUsernameOrPassword
			}
		}
		_ = h.b.server.SendConnack(cl, code, false, nil)
		return code
	}
	user, hash, found := h.b.authenticate(c, pk)
	switch found {
	case wrong:
		return refuse("password", packets.ErrBadUsernameOrPassword)
	case busy:
		return refuse("busy", packets.ErrServerBusy)
	}
	cl.Properties.Username = []byte(user)
	if len(cl.ID) > maxClientID || cl.ID == mochi.InlineClientId { // the edge's own
		return refuse("client id", packets.ErrClientIdentifierNotValid)
	}
	if w := cl.Properties.Will; w.Flag != 0 && !h.b.mayPublish(cl, w.TopicName) {
		return refuse("will", packets.ErrNotAuthorized)
	}
	if c.will = takeWill(cl, pk); c.will != nil && (!h.b.wills.room(c.will) || !h.b.journal.room(c.done)) {
		return refuse("will", packets.ErrQuotaExceeded)
	}
	if existing, ok := h.b.server.Clients.Get(cl.ID); ok && string(existing.Properties.Username) != user {
		return refuse("taken", packets.ErrClientIdentifierNotValid) // it would get what waits for another user
	}
	if why := h.b.gate.admit(c, user, h.b.owner(cl.ID)); why != "" {
		return refuse(why, packets.ErrServerBusy)
	}
	if !h.b.claim(cl, c, user, hash) {
		return refuse("taken", packets.ErrServerBusy)
	}
	existing, ok := h.b.server.Clients.Get(cl.ID)
	if !ok && h.b.server.Clients.Len() >= h.b.cfg.Limits.Sessions+h.b.cfg.Limits.Connections {
		return refuse("sessions", packets.ErrServerBusy)
	}
	if !ok && durable(cl) && !h.b.lasts(cl.ID, c) {
		return refuse("sessions", packets.ErrServerBusy)
	}
	if ok && !pk.Connect.Clean {
		h.b.passLarge(cl, existing)
		inOrder(existing)
		var left []packets.Packet
		if last, ok := existing.Net.Conn.(*conn); ok { // it may have ended before it came to adopt
			left = h.b.orphans(last)
		}
		h.b.mu.Lock()
		c.former, c.orphans = existing, left
		h.b.mu.Unlock()
	}
	// The library's own bookkeeping of what a client can take loses messages and can lock up: conn.window does it.
	c.window.size = int(cl.Properties.Props.ReceiveMaximum)
	cl.Properties.Props.ReceiveMaximum = 0
	cl.State.Inflight.ResetSendQuota(0)
	cl.Properties.Props.TopicAliasMaximum = 0
	return nil
}

// OnConnectAuthenticate has nothing left to ask.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// authenticate returns the user whom a CONNECT is from, with the hash of the password; "" is nobody in particular.
func (b *broker) authenticate(c *conn, pk packets.Packet) (name, hash string, found verdict) {
	return b.users.now.Load().login(b.users.broker, c.ip.IsLoopback(), string(pk.Connect.Username), pk.Connect.Password)
}

// claim makes c the connection of its client and ends the former one. The library's own way to take a session over lets
// the former connection's end undo the new one's beginning. False if the former one is another
// user's, or does not end.
func (b *broker) claim(cl *mochi.Client, c *conn, user, hash string) bool {
	b.mu.Lock()
	former := b.owners[cl.ID]
	if former != nil && former.user != user {
		b.mu.Unlock()
		return false
	}
	b.owners[cl.ID], c.client, c.user, c.hash = c, cl.ID, user, hash
	b.mu.Unlock()
	if former == nil {
		return true
	}
	if old, ok := b.server.Clients.Get(cl.ID); ok && old.Net.Conn == former && old.Properties.ProtocolVersion == 5 {
		_ = old.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: packets.ErrSessionTakenOver.Code})
	}
	// Not the library's Stop, here and elsewhere: it may pass for the client's own DISCONNECT, and then no will is sent.
	_ = former.Close()
	limit := time.NewTimer(b.cfg.Limits.Request + patience)
	defer limit.Stop()
	select {
	case <-former.gone:
		return true
	case <-c.done:
	case <-limit.C:
	}
	return false
}

// expel closes the connections of those who could not connect any more: their user is gone or has another password.
func (b *broker) expel() {
	users := b.users.now.Load()
	b.mu.Lock()
	var gone []*conn
	for _, c := range b.owners {
		if c.banned(users) {
			gone = append(gone, c)
		}
	}
	b.mu.Unlock()
	for _, c := range gone {
		c.ban()
	}
}

// banned reports whether the client could not connect any more. Called with table.mu held, or by the connection's own goroutine.
func (c *conn) banned(users *users) bool { return c.user != "" && c.hash != users.hash(c.user) }

func (c *conn) ban() {
	c.metrics.cut.WithLabelValues("user").Inc()
	_ = c.Close()
}

// disown ends what claim began. The listener calls it when a connection is over.
func (b *broker) disown(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.client != "" && b.owners[c.client] == c {
		delete(b.owners, c.client)
	}
}

// owner is the newest connection of a client, nil for none.
func (b *broker) owner(client string) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.owners[client]
}

// lasts reports whether there is room for another session that outlives its connection, and then counts it: its client may be gone, and
// another one here, before the library has established it.
func (b *broker) lasts(client string, c *conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.sessions {
		if s.durable {
			n++
		}
	}
	for id, other := range b.owners {
		if s := b.sessions[id]; other.lasts && id != client && (s == nil || !s.durable) {
			n++
		}
	}
	c.lasts = n < b.cfg.Limits.Sessions
	return c.lasts
}

// durable reports whether the client's session outlives its connection.
func durable(cl *mochi.Client) bool {
	if cl.Properties.ProtocolVersion == 5 {
		return cl.Properties.Props.SessionExpiryInterval > 0
	}
	return !cl.Properties.Clean
}

// inOrder numbers what waits for a client anew: the library sends it again in the order of 16 bits of Created, which is ours.
func inOrder(cl *mochi.Client) {
	all := cl.State.Inflight.GetAll(false)
	sort.Slice(all, func(i, j int) bool { return all[i].Created < all[j].Created })
	for i, pk := range all {
		pk.Created = int64(i + 1)
		cl.State.Inflight.Set(pk)
	}
}

// OnSessionEstablished stores the session, or that there is none any more.
func (h *hook) OnSessionEstablished(cl *mochi.Client, pk packets.Packet) {
	s := h.b.session(cl.ID)
	h.b.mu.Lock()
	was := s.durable
	s.durable = durable(cl)
	h.b.mu.Unlock()
	if s.durable {
		h.b.journal.add(put(bucketSessions, cl.ID, storage.Client{
			ID: cl.ID, Username: cl.Properties.Username, Listener: cl.Net.Listener, Clean: cl.Properties.Clean,
			ProtocolVersion: cl.Properties.ProtocolVersion, Properties: storage.ClientProperties{
				SessionExpiryInterval:     cl.Properties.Props.SessionExpiryInterval,
				SessionExpiryIntervalFlag: cl.Properties.Props.SessionExpiryIntervalFlag,
			}}))
	} else if was {
		h.b.journal.add(Change{Bucket: bucketSessions, Key: cl.ID})
	}
	c := cl.Net.Conn.(*conn)
	h.b.established(cl.ID, c.will, pk.Connect.Clean)
	h.b.adopt(cl, c)
	c.establish()
	if users := h.b.users.now.Load(); c.banned(users) { // they changed while it was let in
		c.ban()
	}
}

// adopt sends what reached the former connection while the library carried the session over to this one: it copies what
// waits, and puts the new connection in the former's place only later.
func (b *broker) adopt(cl *mochi.Client, c *conn) {
	orphans := b.orphans(c)
	sort.Slice(orphans, func(i, j int) bool { return orphans[i].Created < orphans[j].Created })
	for _, pk := range orphans {
		held, taken := cl.State.Inflight.Get(pk.PacketID)
		if pk.FixedHeader.Type == packets.Publish && (!taken || !same(held, pk)) {
			b.resettle(cl, pk)
		}
	}
	b.mu.Lock()
	late := c.late
	c.late, c.adopted = nil, true
	b.mu.Unlock()
	for _, pk := range late {
		b.send(cl, pk)
	}
}

// same reports whether two messages of one number are one. The number alone does not tell, since each connection counts from 1, nor does the
// second in which it was made.
func same(a, b packets.Packet) bool {
	return a.Created == b.Created && a.TopicName == b.TopicName && bytes.Equal(a.Payload, b.Payload)
}

// orphans takes from c what adopt has to send.
func (b *broker) orphans(c *conn) []packets.Packet {
	b.mu.Lock()
	orphans, former := c.orphans, c.former
	c.orphans, c.former = nil, nil
	b.mu.Unlock()
	if former == nil {
		return orphans
	}
	for _, pk := range former.State.Inflight.GetAll(false) {
		if former.State.Inflight.Delete(pk.PacketID) { // else resettled by who published it
			orphans = append(orphans, pk)
		}
	}
	return orphans
}

// resettle gives cl a message that was meant for its former connection. It is sent at once, or once cl has its CONNACK. Where a still newer
// connection has taken over meanwhile, after it looked at what cl has, the message goes on to that one.
func (b *broker) resettle(cl *mochi.Client, pk packets.Packet) {
	for {
		// A number that is free may have been given out to somebody who has not used it yet, and whose message would take this one's place. Of
		// exactly-once messages the number is what tells the client that it has this one already.
		if _, taken := cl.State.Inflight.Get(pk.PacketID); taken || pk.FixedHeader.Qos < 2 {
			id, err := cl.NextPacketID()
			if err != nil {
				b.metrics.dropped.WithLabelValues("queue").Inc()
				return
			}
			pk.PacketID = uint16(id)
		}
		pk.FixedHeader.Dup = true
		cl.State.Inflight.Set(pk)
		now, ok := b.server.Clients.Get(cl.ID)
		if !ok || now == cl {
			break
		}
		if !cl.State.Inflight.Delete(pk.PacketID) {
			return // the newer connection has it
		}
		cl = now
	}
	if change, e, ok := b.begin(cl, pk); ok {
		b.join(pk.Connect.WillTopic, change, e)
	}
	c := cl.Net.Conn.(*conn)
	b.mu.Lock()
	wait := !c.adopted
	if wait {
		c.late = append(c.late, pk)
	}
	b.mu.Unlock()
	if !wait {
		b.send(cl, pk)
	}
}

func (b *broker) send(cl *mochi.Client, pk packets.Packet) {
	if err := cl.WritePacket(pk); err != nil {
		b.log.Debug("a message stays in the session", "client", cl.ID, "error", err)
	}
}

// OnDisconnect ends a session that does not outlive its connection, and has its will published. At start it is called for loaded
// sessions too.
func (h *hook) OnDisconnect(cl *mochi.Client, _ error, expire bool) {
	if c, ok := cl.Net.Conn.(*conn); ok && c.will != nil {
		expiry := cl.Properties.Props.SessionExpiryInterval
		if expire {
			expiry = 0
		}
		// The error is nil also where the server has ended the connection of a client that it was busy with.
		h.b.disconnected(cl.ID, c.will, errors.Is(cl.StopCause(), packets.CodeDisconnect), expiry)
	}
	if expire && !cl.IsTakenOver() {
		h.b.end(cl)
	}
}

// OnClientExpired ends a session whose client was away for too long. The library would keep its subscriptions. It runs in the library's loop.
func (h *hook) OnClientExpired(cl *mochi.Client) {
	h.b.end(cl)
	h.b.server.UnsubscribeClient(cl)
	cl.ClearInflights()
}

// OnACLCheck is asked for publications, for filters that are subscribed to, and, from any goroutine, for each delivery.
func (h *hook) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	if write {
		// MQTT 3 has no answer for a refusal but to disconnect: OnPublish takes and ignores it.
		return cl.Properties.ProtocolVersion != 5 || h.b.mayPublish(cl, topic)
	}
	c, _ := cl.Net.Conn.(*conn)
	if c == nil || !c.subscribing.Load() {
		if reason := h.b.full(cl.ID); reason != "" {
			h.b.metrics.dropped.WithLabelValues(reason).Inc()
			return false
		}
		return h.b.rights(cl).may(topic, false)
	}
	if !h.b.rights(cl).may(topic, false) {
		h.b.metrics.denied.WithLabelValues("subscribe").Inc()
		return false
	}
	return true
}

// OnSubscribe makes filters invalid that are beyond the limits; the library refuses them.
func (h *hook) OnSubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	c, ok := cl.Net.Conn.(*conn)
	if !ok { // the edge itself
		return pk
	}
	c.subscribing.Store(true)
	held := cl.State.Subscriptions.GetAll()
	n := len(held)
	for i, f := range pk.Filters {
		if _, again := held[f.Filter]; again {
			continue
		}
		if n++; n > h.b.cfg.Limits.Subscriptions || !h.b.within(f.Filter) || !validFilter(f.Filter) {
			h.b.metrics.denied.WithLabelValues("filter").Inc()
			pk.Filters[i].Filter = ""
			n--
		}
	}
	return pk
}

// OnSubscribed stores what was subscribed to before the client hears of it.
func (h *hook) OnSubscribed(cl *mochi.Client, pk packets.Packet, codes []byte) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return
	}
	c.subscribing.Store(false)
	if !durable(cl) {
		return
	}
	var changes []Change
	for i, f := range pk.Filters {
		if codes[i] < packets.ErrUnspecifiedError.Code {
			changes = append(changes, put(bucketSubscriptions, subscriptionKey(cl.ID, f.Filter), storage.Subscription{
				Client: cl.ID, Filter: f.Filter, Identifier: f.Identifier, RetainHandling: f.RetainHandling, Qos: f.Qos,
				RetainAsPublished: f.RetainAsPublished, NoLocal: f.NoLocal}))
		}
	}
	if !h.b.journal.room(c.done) || !h.b.journal.wait(h.b.journal.add(changes...), c.done) {
		c.giveUp()
	}
}

// OnUnsubscribed deletes what OnSubscribed stored.
func (h *hook) OnUnsubscribed(cl *mochi.Client, pk packets.Packet) {
	if h.b.isDurable(cl.ID) {
		changes := make([]Change, 0, len(pk.Filters))
		for _, f := range pk.Filters {
			changes = append(changes, Change{Bucket: bucketSubscriptions, Key: subscriptionKey(cl.ID, f.Filter)})
		}
		h.b.journal.add(changes...)
	}
}

func (b *broker) isDurable(client string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[client]
	return s != nil && s.durable
}
