package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/tether-edge/tether/common/pki"
)

// A broker is the MQTT broker inside edgecore: the library's server, with what it lacks in a hook.
type broker struct {
	table

	cfg      Broker
	node     string
	users    *Users
	gate     *gate
	journal  *journal
	retained *retained
	wills    *wills
	answerer *answerer
	metrics  *metrics
	log      *slog.Logger
	// seq numbers messages in the order in which they came.
	seq atomic.Int64

	server *mochi.Server
	// relays publish QoS 1 and 2 for clients of MQTT 3 and 5.
	relays map[byte]*mochi.Client
	plain  *listener
}

func newBroker(cfg Broker, node string, users *Users, mem Memory, a *answerer) *broker {
	b := &broker{
		table: table{sessions: map[string]*session{}, owners: map[string]*conn{}, groups: map[string]*group{}},
		cfg:   cfg, node: node, users: users, answerer: a, metrics: a.metrics, log: a.log,
		gate:     newGate(cfg.Limits, a.metrics),
		journal:  newJournal(mem, a.log, a.metrics),
		retained: &retained{limit: cfg.Limits.RetainedBytes, metrics: a.metrics, sizes: map[string]int{}},
		wills:    newWills(),
	}
	b.plain = &listener{id: "plain", addr: cfg.Listen, gate: b.gate, over: b.disown, log: a.log}
	return b
}

// options leave out of the library what is not right in it, each with the reason.
func (b *broker) options() *mochi.Options {
	c := mochi.NewDefaultServerCapabilities()
	c.MaximumClients = int64(b.cfg.Limits.Connections)
	c.MaximumClientWritesPending = int32(b.cfg.Limits.Queue)
	c.MaximumInflight = uint16(b.cfg.Limits.Queue)
	c.MaximumPacketSize = uint32(b.cfg.Limits.Payload + b.cfg.Limits.TopicLength + 4096)
	c.MaximumSessionExpiryInterval = uint32(b.cfg.Limits.SessionExpiry.Seconds())
	// Its default deletes retained messages after a day.
	c.MaximumMessageExpiryInterval = 0
	// It checks a topic's rights before it looks up the alias, and keeps queued messages under aliases of a former connection.
	c.TopicAliasMaximum = 0
	c.Compatibilities.NoInheritedPropertiesOnAck = true
	return &mochi.Options{Capabilities: c, Logger: slog.New(quiet{b.log.Handler()}), InlineClient: true,
		// It holds small packets back while others wait to be sent, and those may wait for these. conn buffers.
		ClientNetWriteBufferSize: 1,
		// Each stops the world to measure memory.
		SysTopicResendInterval: 3600}
}

// serve runs the broker until ctx is done; ready is called once it listens.
func (b *broker) serve(ctx context.Context, ready func(addr string)) error {
	b.server = mochi.New(b.options())
	b.metrics.library.Store(b.server.Info)
	b.relays = map[byte]*mochi.Client{}
	for _, version := range []byte{4, 5} {
		b.relays[version] = b.server.NewClient(nil, mochi.LocalListener, mochi.InlineClientId, true)
		b.relays[version].Properties.ProtocolVersion = version
	}
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return err
	}
	// Requests are served while it stops, so that those that were taken are answered.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for i, filter := range requestFilters("+") {
		handle := func(_ *mochi.Client, _ packets.Subscription, pk packets.Packet) {
			if m := b.answerer.answer(working, pk.TopicName, pk.Payload); m != nil {
				b.publish(*m)
			}
		}
		if err := b.server.Subscribe(filter, i+1, handle); err != nil {
			return fmt.Errorf("subscribe to %s: %w", filter, err)
		}
	}
	if err := b.listen(); err != nil {
		return err
	}
	var writer sync.WaitGroup
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	writer.Go(func() { b.journal.run(writing) })
	defer func() {
		stopWriting()
		writer.Wait()
	}()
	if err := errors.Join(b.loadWills(), b.server.Serve()); err != nil {
		_ = b.server.Close()
		return fmt.Errorf("load what was kept: %w", err)
	}
	var willing sync.WaitGroup
	willing.Go(func() { b.publishWills(working) })
	defer func() { // before what they publish can no longer be stored
		stop()
		willing.Wait()
	}()
	ready(b.plain.Address())
	<-ctx.Done()
	return b.server.Close()
}

func (b *broker) listen() error {
	if err := b.server.AddListener(b.plain); err != nil {
		return fmt.Errorf("listen for MQTT: %w", err)
	}
	if b.cfg.ListenTLS == "" {
		return nil
	}
	identity, err := pki.NewIdentity(b.cfg.CertFile, b.cfg.KeyFile, b.log)
	if err != nil {
		_ = b.plain.ln.Close()
		return fmt.Errorf("certificate of the MQTT listener: %w", err)
	}
	present := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return identity.Certificate(), nil }
	secure := &listener{id: "tls", addr: b.cfg.ListenTLS, gate: b.gate, over: b.disown, log: b.log,
		tls: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: present}}
	if err := b.server.AddListener(secure); err != nil {
		_ = b.plain.ln.Close()
		return fmt.Errorf("listen for MQTT with TLS: %w", err)
	}
	return nil
}

// publish publishes as the edge.
func (b *broker) publish(m message) {
	if err := b.server.Publish(m.topic, m.payload, false, 1); err != nil {
		b.metrics.dropped.WithLabelValues("edge").Inc()
		b.log.Warn("cannot publish", "topic", m.topic, "error", err)
	}
}

// rights are those of cl's user.
func (b *broker) rights(cl *mochi.Client) *rights {
	return b.users.now.Load().of(string(cl.Properties.Username))
}

// within reports whether a topic or filter keeps to the limits.
func (b *broker) within(topic string) bool {
	return len(topic) <= b.cfg.Limits.TopicLength && strings.Count(topic, "/") < b.cfg.Limits.TopicLevels
}

// mayPublish reports whether a client may publish to topic, and counts it if not.
func (b *broker) mayPublish(cl *mochi.Client, topic string) bool {
	reason := ""
	switch {
	case topic == "" || !b.within(topic) || strings.ContainsAny(topic, "+#\x00"):
		reason = "topic"
	case reserved(topic):
		reason = "reserved"
	case !b.rights(cl).may(topic, true):
		reason = "acl"
	default:
		return true
	}
	b.metrics.denied.WithLabelValues(reason).Inc()
	return false
}

// retained counts what retained messages hold.
type retained struct {
	limit   int
	metrics *metrics

	mu    sync.Mutex // guards the fields below
	sizes map[string]int
	bytes int
}

// set notes that topic's retained message has a payload of n bytes; 0: there is none. False if there is no room for it,
// unless it is forced.
func (r *retained) set(topic string, n int, force bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	const overhead = 512 // of an entry in the library's index
	size := 0
	if n > 0 {
		size = n + len(topic) + overhead
	}
	if grown := r.bytes - r.sizes[topic] + size; size > 0 && grown > r.limit && !force {
		return false
	}
	r.bytes += size - r.sizes[topic]
	if r.sizes[topic] = size; size == 0 {
		delete(r.sizes, topic)
	}
	r.metrics.retained.Set(float64(r.bytes))
	return true
}
