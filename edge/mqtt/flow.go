package mqtt

import (
	"bytes"
	"strings"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// This file is the part of the hook that follows messages: in, to the subscribers, into the journal, and acknowledged.
//
// The library acknowledges a message before it hands it to anybody. Here OnPublish hands on what has QoS 1 or 2 by a relay, a
// client inside the process; all that this changes makes a group, which is durable before the acknowledgement goes out
// (OnQosPublish). The library's own handing on is left out then.

// OnPacketRead slows a client down that sends too fast, and sees to it that its packet ids are not ours.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok || pk.FixedHeader.Type == packets.Connect {
		return pk, nil
	}
	c.throttle(pk.FixedHeader.Remaining)
	if n := len(mochi.SysPrefix); pk.FixedHeader.Type == packets.Publish && len(pk.TopicName) >= n && strings.EqualFold(pk.TopicName[:n], mochi.SysPrefix) {
		// The library would leave it without an acknowledgement. Below the edge's own topics it is refused as they are.
		pk.TopicName = hw + pk.TopicName
	}
	switch pk.FixedHeader.Type {
	case packets.Publish, packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		if pk.PacketID != 0 {
			pk.PacketID = h.b.ours(cl, pk.PacketID)
		}
	}
	return pk, nil
}

// OnPublish decides what becomes of a message. For the relays it sets what the library takes from the client.
func (h *hook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	pk.Created = h.b.seq.Add(1)
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		if pk.Connect.ClientIdentifier != "" {
			pk.Origin = pk.Connect.ClientIdentifier
		}
		return pk, nil
	}
	c.group = nil
	if cl.Properties.ProtocolVersion != 5 && !h.b.mayPublish(cl, pk.TopicName) {
		return pk, packets.CodeSuccessIgnore
	}
	pk.FixedHeader.Retain = pk.FixedHeader.Retain && h.b.mayRetain(pk.TopicName, len(pk.Payload))
	if pk.FixedHeader.Qos == 0 {
		if pk.FixedHeader.Retain && !h.b.journal.room(c.done) {
			pk.FixedHeader.Retain = false
		}
		return pk, nil
	}
	if !h.b.journal.room(c.done) {
		c.giveUp()
		return pk, packets.CodeSuccessIgnore
	}
	token, g := h.b.open()
	defer h.b.shut(token)
	c.group = g
	out := pk
	out.FixedHeader.Dup = false
	out.Connect.ClientIdentifier, out.Connect.WillTopic = cl.ID, token
	relay := h.b.relays[4]
	if cl.Properties.ProtocolVersion == 5 {
		relay = h.b.relays[5]
	}
	if err := h.b.server.InjectPacket(relay, out); err != nil {
		return pk, err
	}
	return pk, packets.CodeSuccessIgnore
}

// mayRetain reports whether a message may be kept for later subscribers. Requests to the edge may not: they would be made
// again at each start.
func (b *broker) mayRetain(topic string, n int) bool {
	if _, request := parseTopic(topic); request {
		return false
	}
	if !b.retained.set(topic, n, false) {
		b.metrics.dropped.WithLabelValues("retained").Inc()
		return false
	}
	return true
}

// OnRetainMessage stores a retained message, or that there is none any more.
func (h *hook) OnRetainMessage(_ *mochi.Client, pk packets.Packet, r int64) {
	c := Change{Bucket: bucketRetained, Key: pk.TopicName}
	if r == 1 {
		c = put(bucketRetained, pk.TopicName, retainedRecord{messageRecord("", pk), pk.Expiry})
	}
	h.b.join(pk.Connect.WillTopic, c, stored{})
}

// OnRetainedExpired runs in the library's loop.
func (h *hook) OnRetainedExpired(topic string) {
	h.b.retained.set(topic, 0, true)
	h.b.journal.add(Change{Bucket: bucketRetained, Key: topic})
}

// OnQosPublish is asked before a message to cl is sent, from any goroutine, and before one from cl is acknowledged.
func (h *hook) OnQosPublish(cl *mochi.Client, pk packets.Packet, _ int64, _ int) {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if now, ok := h.b.server.Clients.Get(cl.ID); ok && now != cl {
			if cl.State.Inflight.Delete(pk.PacketID) { // else adopted
				h.b.resettle(now, pk)
			}
			return
		}
		if c, e, ok := h.b.begin(cl, pk); ok {
			h.b.join(pk.Connect.WillTopic, c, e)
		}
	case packets.Pubrec, packets.Puback:
		c, ok := cl.Net.Conn.(*conn)
		if !ok || c.group == nil {
			return
		}
		var taken []Change
		if pk.FixedHeader.Type == packets.Pubrec {
			if change, _, ok := h.b.begin(cl, pk); ok {
				taken = append(taken, change)
			}
		}
		g := c.group
		c.group = nil
		if !h.b.journal.wait(h.b.commit(g, taken...), c.done) {
			c.giveUp()
		}
	}
}

// OnPacketEncode is asked before any packet is sent to cl, in the goroutine that does.
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return pk
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		// The library leaves user properties out for who wants no words about problems: these are what clients tell each other.
		pk.Mods.DisallowProblemInfo = false
		if tooLarge(pk) {
			h.b.pass(cl, pk)
			return pk
		}
		id := pk.PacketID
		if pk.FixedHeader.Qos == 0 {
			id = 0
		}
		c.waitRoom(id, pk.FixedHeader.Dup)
	case packets.Puback, packets.Suback, packets.Unsuback:
		pk.PacketID = h.b.theirs(cl, pk.PacketID, true)
	case packets.Pubrec:
		pk.PacketID = h.b.theirs(cl, pk.PacketID, false)
		if pk.ReasonCode == packets.ErrPacketIdentifierInUse.Code { // sent again, and taken the first time
			pk.ReasonCode, pk.Properties.ReasonString = packets.CodeSuccess.Code, ""
		}
	case packets.Pubcomp:
		// Were the note that it was taken still there after a power cut, the next message with its number would be lost.
		if !h.b.journal.wait(h.b.finish(cl, pk.PacketID), c.done) {
			c.giveUp()
		}
		pk.PacketID = h.b.theirs(cl, pk.PacketID, true)
	case packets.Pubrel:
		// Were the message sent again after a power cut, the client would take it twice.
		if change, _, ok := h.b.begin(cl, pk); ok && !h.b.journal.wait(h.b.journal.add(change), c.done) {
			c.giveUp()
		}
	}
	return pk
}

// tooLarge reports whether the client takes no packet of that size: the library drops it once it is encoded.
func tooLarge(pk packets.Packet) bool {
	if pk.Mods.MaxSize == 0 {
		return false
	}
	var b bytes.Buffer
	return pk.PublishEncode(&b) == nil && uint32(b.Len()) > pk.Mods.MaxSize
}

// pass forgets a message that its client is too small for, as if the client had acknowledged it [MQTT-3.1.2-25].
func (b *broker) pass(cl *mochi.Client, pk packets.Packet) {
	b.metrics.dropped.WithLabelValues("large").Inc()
	if pk.FixedHeader.Qos > 0 && cl.State.Inflight.Delete(pk.PacketID) {
		b.finish(cl, pk.PacketID)
	}
}

// passLarge forgets those among what waits in the session that the client goes on with: the library gives a connection up over the first one.
func (b *broker) passLarge(cl, existing *mochi.Client) {
	for _, pk := range existing.State.Inflight.GetAll(false) {
		pk.ProtocolVersion, pk.Mods.MaxSize = cl.Properties.ProtocolVersion, cl.Properties.Props.MaximumPacketSize
		if pk.Expiry > 0 {
			pk.Properties.MessageExpiryInterval = 1 // it is sent with what is left, in as many bytes
		}
		if pk.FixedHeader.Type == packets.Publish && tooLarge(pk) {
			b.pass(existing, pk)
		}
	}
}

// OnQosComplete is called when a message is acknowledged to the end.
func (h *hook) OnQosComplete(cl *mochi.Client, pk packets.Packet) {
	h.b.finish(cl, pk.PacketID)
	if c, ok := cl.Net.Conn.(*conn); ok {
		c.acked(pk.PacketID)
	}
}

// OnQosDropped is OnQosComplete for what will not be acknowledged. When a session goes over to a new connection, the
// library drops all of it from the old one; adopt looks at what was.
func (h *hook) OnQosDropped(cl *mochi.Client, pk packets.Packet) {
	if !cl.IsTakenOver() {
		h.OnQosComplete(cl, pk)
		return
	}
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	if c := h.b.owners[cl.ID]; c != nil && c.former == cl {
		c.orphans = append(c.orphans, pk)
	}
}

// OnPublishDropped is called when too much waits for cl already.
func (h *hook) OnPublishDropped(cl *mochi.Client, pk packets.Packet) {
	h.b.metrics.dropped.WithLabelValues("slow").Inc()
	if pk.FixedHeader.Qos > 0 {
		h.b.markStale(cl.ID)
	}
}

// OnPacketIDExhausted is called when no number is left for a message to cl.
func (h *hook) OnPacketIDExhausted(*mochi.Client, packets.Packet) {
	h.b.metrics.dropped.WithLabelValues("queue").Inc()
}
