package mqtt

import (
	"cmp"
	"context"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// This file keeps wills: in the Memory as long as a client is connected, so that a power cut of the gateway says no
// less than one of the client alone. The library's own would be lost with the process, those with a delay also by an orderly stop.

// willRecord is what is to be published when a client's connection ends otherwise than by its DISCONNECT.
type willRecord struct {
	User    string `json:"user,omitempty"` // whose right it is published by
	Version byte   `json:"version"`        // of MQTT
	Topic   string `json:"topic"`
	Payload []byte `json:"payload"`
	QoS     byte   `json:"qos"`
	Retain  bool   `json:"retain,omitempty"`
	// Delay is in seconds.
	Delay uint32 `json:"delay,omitempty"`

	PayloadFormat   *byte                  `json:"payloadFormat,omitempty"`
	ContentType     string                 `json:"contentType,omitempty"`
	ResponseTopic   string                 `json:"responseTopic,omitempty"`
	CorrelationData []byte                 `json:"correlationData,omitempty"`
	Expiry          uint32                 `json:"expiry,omitempty"` // in seconds from its publication, 0 for never
	UserProperties  []packets.UserProperty `json:"userProperties,omitempty"`
}

// wills are those of all clients that are connected, and those that wait for their time.
type wills struct {
	mu      sync.Mutex // guards the fields below
	stored  map[string]*willRecord
	bytes   int // of those stored
	waiting map[string]waitingWill
	// changed tells the goroutine that publishes them of a new one.
	changed chan struct{}
}

type waitingWill struct {
	*willRecord
	due time.Time
}

func newWills() *wills {
	return &wills{stored: map[string]*willRecord{}, waiting: map[string]waitingWill{}, changed: make(chan struct{}, 1)}
}

const (
	// maxWill is how large a will may be, in bytes. Its payload has 64 KiB at most.
	maxWill = 128 << 10
	// maxWills is what the wills of all clients that are connected may have together, about: those who connect at once are not counted among
	// each other.
	maxWills = 16 << 20
)

// size is what a will counts, in bytes.
func (r *willRecord) size() int {
	n := len(r.Topic) + len(r.Payload) + len(r.ContentType) + len(r.ResponseTopic) + len(r.CorrelationData)
	for _, p := range r.UserProperties {
		n += len(p.Key) + len(p.Val)
	}
	return n
}

// room reports whether there is some for a will.
func (w *wills) room(r *willRecord) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := r.size()
	return n <= maxWill && w.bytes+n <= maxWills
}

// store keeps a client's will. It is called with mu held.
func (w *wills) store(client string, r *willRecord) {
	if former := w.stored[client]; former != nil {
		w.bytes -= former.size()
	}
	w.stored[client] = r
	w.bytes += r.size()
}

// takeWill takes the will out of a CONNECT, nil if there is none. From here on it is not the library's.
func takeWill(cl *mochi.Client, pk packets.Packet) *willRecord {
	w := cl.Properties.Will
	cl.Properties.Will = mochi.Will{}
	if w.Flag == 0 {
		return nil
	}
	p := pk.Connect.WillProperties
	r := &willRecord{User: string(cl.Properties.Username), Version: cl.Properties.ProtocolVersion, Topic: w.TopicName, Payload: w.Payload, QoS: w.Qos,
		Retain: w.Retain, Delay: min(p.WillDelayInterval, cl.Properties.Props.SessionExpiryInterval), ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData,
		Expiry: p.MessageExpiryInterval, UserProperties: p.User}
	if p.PayloadFormatFlag {
		r.PayloadFormat = &p.PayloadFormat
	}
	return r
}

// established stores the will of a client that is connected now, or that there is none. What its former connection left is not to be
// said any more: it is here. But where it began a new session, the former one has ended (MQTT 5, 3.1.3.2.2).
func (b *broker) established(client string, will *willRecord, clean bool) {
	w := b.wills
	w.mu.Lock()
	former, waited := w.waiting[client]
	delete(w.waiting, client)
	switch {
	case will != nil:
		w.store(client, will)
		b.journal.add(put(bucketWills, client, will))
	case w.stored[client] != nil:
		w.forget(b, client, w.stored[client])
	}
	w.mu.Unlock()
	if waited && clean && former.Delay > 0 {
		b.publishWill(client, former.willRecord)
	}
}

// disconnected publishes the will of a connection that has ended, now or when its delay is over; expiry is how long the session lasts, in
// seconds. A client that said goodbye has none.
func (b *broker) disconnected(client string, will *willRecord, goodbye bool, expiry uint32) {
	w := b.wills
	delay := min(will.Delay, expiry)
	if !goodbye && delay > 0 {
		w.mu.Lock()
		w.waiting[client] = waitingWill{will, time.Now().Add(time.Duration(delay) * time.Second)}
		w.mu.Unlock()
		select {
		case w.changed <- struct{}{}:
		default:
		}
		return
	}
	if !goodbye {
		b.publishWill(client, will)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(b, client, will)
}

// forget deletes what is stored, if it is that will and no later one. It is called with mu held.
func (w *wills) forget(b *broker, client string, will *willRecord) {
	if w.stored[client] == will {
		delete(w.stored, client)
		w.bytes -= will.size()
		b.journal.add(Change{Bucket: bucketWills, Key: client})
	}
}

// publishWill publishes a will, if its user may still do so.
func (b *broker) publishWill(client string, r *willRecord) {
	if !b.users.now.Load().of(r.User).may(r.Topic, true) {
		b.metrics.denied.WithLabelValues("acl").Inc()
		return
	}
	relay := b.relays[4]
	if r.Version == 5 {
		relay = b.relays[5]
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: r.QoS, Retain: r.Retain && b.mayRetain(r.Topic, len(r.Payload))},
		TopicName:   r.Topic, Payload: r.Payload, PacketID: uint16(min(r.QoS, 1)),
		Properties: packets.Properties{ContentType: r.ContentType, ResponseTopic: r.ResponseTopic, CorrelationData: r.CorrelationData,
			MessageExpiryInterval: r.Expiry, User: r.UserProperties},
	}
	if r.PayloadFormat != nil {
		pk.Properties.PayloadFormat, pk.Properties.PayloadFormatFlag = *r.PayloadFormat, true
	}
	pk.Connect.ClientIdentifier = client
	if err := b.server.InjectPacket(relay, pk); err != nil {
		b.metrics.dropped.WithLabelValues("will").Inc()
		b.log.Warn("cannot publish a will", "client", client, "topic", r.Topic, "error", err)
	}
}

// willGrace is how long a client that was connected when the broker ended has to come back, before its will is published.
const willGrace = 30 * time.Second

// loadWills reads the wills that were not published when the broker ended, of which nobody knows when.
func (b *broker) loadWills() error {
	now := time.Now()
	b.wills.mu.Lock()
	defer b.wills.mu.Unlock()
	return load(b, bucketWills, func(client string, r willRecord) {
		b.wills.store(client, &r)
		grace := max(cmp.Or(b.cfg.WillGrace, willGrace), time.Duration(r.Delay)*time.Second)
		b.wills.waiting[client] = waitingWill{&r, now.Add(grace)}
	})
}

// publishWills publishes those whose time has come, until ctx is done.
func (b *broker) publishWills(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var under sync.WaitGroup
	defer under.Wait()
	for {
		select {
		case <-timer.C:
		case <-b.wills.changed:
		case <-ctx.Done():
			return
		}
		timer.Reset(b.publishDue(&under))
	}
}

// publishDue returns how long it is until the next one's time comes.
func (b *broker) publishDue(under *sync.WaitGroup) time.Duration {
	w := b.wills
	for {
		client, r, next := w.due(time.Now())
		if r == nil {
			return next
		}
		publish := func() {
			b.publishWill(client, r)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.forget(b, client, r)
		}
		if _, request := parseTopic(r.Topic); request { // its answer may take some time
			under.Go(publish)
		} else {
			publish()
		}
	}
}

// due takes one whose time has come: one after the other, since clients come back meanwhile. Without any it returns how long it is until
// the next one's.
func (w *wills) due(now time.Time) (client string, r *willRecord, next time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next = time.Hour
	for client, waits := range w.waiting {
		left := waits.due.Sub(now)
		if left <= 0 {
			delete(w.waiting, client)
			return client, waits.willRecord, 0
		}
		next = min(next, left)
	}
	return "", nil, next
}
