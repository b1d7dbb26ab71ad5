package mqtt

import (
	"context"
	"encoding/json"
	"sort"
	"strconv"
	"time"

	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/packets"
)

// The buckets of a Memory.
const (
	bucketSessions      = "mqtt/sessions"
	bucketSubscriptions = "mqtt/subscriptions"
	bucketInflight      = "mqtt/inflight"
	bucketRetained      = "mqtt/retained"
	bucketWills         = "mqtt/wills"
)

// inflightRecord is a message under way to a client, or the note that one from it was taken.
type inflightRecord struct {
	storage.Message
	// Peer is the packet id that the client uses, if it is not ours.
	Peer   uint16 `json:"peer,omitempty"`
	Expiry int64  `json:"expiry,omitempty"`
}

// retainedRecord is a retained message.
type retainedRecord struct {
	storage.Message
	Expiry int64 `json:"expiry,omitempty"`
}

// expired reports whether a message is of no use any more: expiry is in seconds since 1970, 0 for one that is for ever.
func expired(expiry int64) bool { return expiry > 0 && expiry < time.Now().Unix() } // by the library's clock

func inflightKey(client string, id uint16) string { return strconv.Itoa(int(id)) + "/" + client }

func subscriptionKey(client, filter string) string {
	return strconv.Itoa(len(client)) + "/" + client + filter
}

func put(bucket, key string, record any) Change {
	b, err := json.Marshal(record)
	if err != nil { // none of the types above can fail
		panic(err)
	}
	return Change{bucket, key, b}
}

func messageRecord(client string, pk packets.Packet) storage.Message {
	return storage.Message{
		Client: client, Origin: pk.Origin, TopicName: pk.TopicName, Payload: pk.Payload, FixedHeader: pk.FixedHeader,
		Created: pk.Created, PacketID: pk.PacketID,
		Properties: storage.MessageProperties{
			PayloadFormat: pk.Properties.PayloadFormat, PayloadFormatFlag: pk.Properties.PayloadFormatFlag,
			MessageExpiryInterval: pk.Properties.MessageExpiryInterval, ContentType: pk.Properties.ContentType,
			ResponseTopic: pk.Properties.ResponseTopic, CorrelationData: pk.Properties.CorrelationData,
			SubscriptionIdentifier: pk.Properties.SubscriptionIdentifier, User: pk.Properties.User,
		},
	}
}

// load visits the records of a bucket. One that cannot be read is counted and deleted: it would keep the broker from starting for ever.
func load[T any](b *broker, bucket string, visit func(key string, record T)) error {
	if b.journal.mem == nil {
		return nil
	}
	var broken []Change
	err := b.journal.mem.All(context.Background(), bucket, func(key string, value []byte) error {
		var record T
		if err := json.Unmarshal(value, &record); err != nil {
			b.metrics.damaged.Inc()
			broken = append(broken, Change{Bucket: bucket, Key: key})
			return nil
		}
		visit(key, record)
		return nil
	})
	b.journal.add(broken...)
	return err
}

// StoredClients, StoredSubscriptions, StoredInflightMessages and StoredRetainedMessages give the library what was kept, in this order.
func (h *hook) StoredClients() (out []storage.Client, err error) {
	err = load(h.b, bucketSessions, func(_ string, c storage.Client) {
		h.b.session(c.ID).durable = true
		out = append(out, c)
	})
	return out, err
}

// StoredSubscriptions leaves out those of sessions that are not there.
func (h *hook) StoredSubscriptions() (out []storage.Subscription, err error) {
	err = load(h.b, bucketSubscriptions, func(key string, s storage.Subscription) {
		if _, ok := h.b.server.Clients.Get(s.Client); !ok {
			h.b.journal.add(Change{Bucket: bucketSubscriptions, Key: key})
			return
		}
		out = append(out, s)
	})
	return out, err
}

// StoredInflightMessages sets the order of messages again, and leaves out what its client may not read any more.
func (h *hook) StoredInflightMessages() ([]storage.Message, error) {
	var records []inflightRecord
	err := load(h.b, bucketInflight, func(key string, r inflightRecord) {
		cl, ok := h.b.server.Clients.Get(r.Client)
		if !ok || r.FixedHeader.Type == packets.Publish && (expired(r.Expiry) || !h.b.rights(cl).may(r.TopicName, false)) {
			h.b.journal.add(Change{Bucket: bucketInflight, Key: key})
			return
		}
		records = append(records, r)
	})
	sort.Slice(records, func(i, j int) bool { return records[i].Created < records[j].Created })
	out := make([]storage.Message, 0, len(records))
	for _, r := range records {
		r.Created = h.b.seq.Add(1)
		h.b.restore(r)
		out = append(out, r.Message)
		if r.Expiry > 0 {
			h.loaded = append(h.loaded, func() {
				if cl, ok := h.b.server.Clients.Get(r.Client); ok {
					if pk, ok := cl.State.Inflight.Get(r.PacketID); ok {
						pk.Expiry, pk.ProtocolVersion = r.Expiry, 5
						cl.State.Inflight.Set(pk)
					}
				}
			})
		}
	}
	return out, err
}

// StoredRetainedMessages counts what it returns.
func (h *hook) StoredRetainedMessages() (out []storage.Message, err error) {
	err = load(h.b, bucketRetained, func(key string, r retainedRecord) {
		if expired(r.Expiry) {
			h.b.journal.add(Change{Bucket: bucketRetained, Key: key})
			return
		}
		h.b.retained.set(r.TopicName, len(r.Payload), true)
		out = append(out, r.Message)
		if r.Expiry > 0 {
			h.loaded = append(h.loaded, func() {
				if pk, ok := h.b.server.Topics.Retained.Get(r.TopicName); ok {
					pk.Expiry, pk.ProtocolVersion = r.Expiry, 5
					h.b.server.Topics.Retained.Add(r.TopicName, pk)
				}
			})
		}
	})
	return out, err
}

// StoredSysInfo has none: it is asked for when the rest is loaded, and gives messages the time at which they expire, which the library
// would forget.
func (h *hook) StoredSysInfo() (storage.SystemInfo, error) {
	for _, f := range h.loaded {
		f()
	}
	h.loaded = nil
	return storage.SystemInfo{}, nil
}
