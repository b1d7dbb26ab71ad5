package session

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// EdgeConfig parametrizes an Edge. The zero value of a field takes the default named beside it.
type EdgeConfig struct {
	Node     string
	Software string
	Features []string
	// Store is the identifier of the edge's store.
	Store string
	// Process is an identifier of the edge's process.
	Process string
	// Kinds are those that the edge knows (those of common/object): the hub sends no others.
	Kinds []object.ID
	// PingInterval is how often the edge pings (15 s). Three pings without an answer make a dead link.
	PingInterval time.Duration
	// WriteWindow is the most writes without an answer (64).
	WriteWindow int
	// RetryMin and RetryMax bound the back-off of a key whose write failed (1 s, 60 s).
	RetryMin, RetryMax time.Duration
	// Rand returns a number in [0, 1), for the jitter of that back-off.
	Rand func() float64
}

// Held is what an edge says of itself when it connects.
type Held struct {
	// Digests are of the kinds that it holds any of.
	Digests map[object.ID]object.Digest
	NodeUID string
	Epoch   string
}

// A Head is an entry of the edge's outbox without its body.
type Head struct {
	ID       uint64
	Key      object.Key
	Priority int
}

// Edge is the edge's half of one session.
type Edge struct {
	cfg  EdgeConfig
	held Held

	welcomed     bool
	wanted       map[object.ID]bool
	lastReceived time.Time
	lastPing     time.Time
	pings        uint64

	seq     uint64 // last batch received
	applied uint64 // last batch committed
	synced  []*wire.Synced

	out outbox
}

// NewEdge returns the edge's half of a session; Start makes its first frame.
func NewEdge(cfg EdgeConfig, held Held) *Edge {
	cfg.PingInterval = cmp.Or(cfg.PingInterval, 15*time.Second)
	cfg.WriteWindow = cmp.Or(cfg.WriteWindow, 64)
	cfg.RetryMin = cmp.Or(cfg.RetryMin, time.Second)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, time.Minute)
	if cfg.Kinds == nil {
		for _, k := range object.Synced() {
			cfg.Kinds = append(cfg.Kinds, k.ID())
		}
	}
	if cfg.Rand == nil {
		cfg.Rand = func() float64 { return 1 }
	}
	cfg.Kinds = slices.Sorted(slices.Values(cfg.Kinds))
	return &Edge{cfg: cfg, held: held, wanted: map[object.ID]bool{}, out: newOutbox(cfg)}
}

// Start returns the Hello.
func (e *Edge) Start(now time.Time) []Effect {
	e.lastReceived, e.lastPing = now, now
	h := &wire.Hello{Versions: wire.Versions(), Features: offered(e.cfg.Features), Node: e.cfg.Node, NodeUid: e.held.NodeUID,
		Epoch: e.held.Epoch, Software: e.cfg.Software, Store: e.cfg.Store, Process: e.cfg.Process, PingIntervalMs: e.cfg.PingInterval.Milliseconds()}
	for _, id := range e.cfg.Kinds {
		d := e.held.Digests[id] // none of it: zero
		h.Kinds = append(h.Kinds, &wire.KindDigest{Kind: string(id), Count: d.Count, Sum0: d.Sum[0], Sum1: d.Sum[1]})
	}
	return []Effect{Send{&wire.Frame{Body: &wire.Frame_Hello{Hello: h}}}}
}

// Receive takes a frame from the hub. An error ends the session.
func (e *Edge) Receive(now time.Time, f *wire.Frame) ([]Effect, error) {
	e.lastReceived = now
	switch b := f.Body.(type) {
	case *wire.Frame_Goodbye:
		return []Effect{Close{Reason: b.Goodbye.Reason, Message: b.Goodbye.Message,
			ComeBack: bounded(b.Goodbye.ComeBackMs, maxComeBack)}}, nil
	case *wire.Frame_Welcome:
		return e.welcome(b.Welcome)
	}
	if !e.welcomed {
		return nil, protocolError("%s before welcome", wire.Name(f))
	}
	switch b := f.Body.(type) {
	case *wire.Frame_Batch:
		if b.Batch.Seq != e.seq+1 {
			return nil, protocolError("batch %d after batch %d", b.Batch.Seq, e.seq)
		}
		if err := expand(b.Batch.Items, e.cfg.Kinds); err != nil {
			return nil, err
		}
		e.seq = b.Batch.Seq
		return []Effect{ApplyBatch{b.Batch}}, nil
	case *wire.Frame_Synced:
		if b.Synced.Seq > e.seq {
			return nil, protocolError("synced at batch %d, the last one received is %d", b.Synced.Seq, e.seq)
		}
		e.synced = append(e.synced, b.Synced)
		return e.markSynced(), nil
	case *wire.Frame_Result:
		return e.out.result(now, b.Result), nil
	case *wire.Frame_Reply:
		return []Effect{Answer{b.Reply}}, nil
	case *wire.Frame_OpenTunnel:
		return []Effect{OpenTunnel{}}, nil
	case *wire.Frame_Ping:
		return []Effect{Send{&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{Id: b.Ping.Id}}}}}, nil
	case *wire.Frame_Pong, nil:
		// A body that this version does not know comes from a newer hub and is ignored (I12).
		return nil, nil
	}
	return nil, protocolError("%s from a hub", wire.Name(f))
}

// maxComeBack is the longest that a hub can send an edge away.
const maxComeBack = 10 * time.Minute

// bounded is a number of milliseconds between none and most.
func bounded(ms int64, most time.Duration) time.Duration {
	return time.Duration(min(max(ms, 0), most.Milliseconds())) * time.Millisecond
}

func (e *Edge) welcome(w *wire.Welcome) ([]Effect, error) {
	if e.welcomed {
		return nil, protocolError("a second welcome")
	}
	if _, ok := highestCommon(wire.Versions(), []uint32{w.Version}); !ok {
		return nil, protocolError("welcome with version %d, this edge speaks %v", w.Version, wire.Versions())
	}
	if len(w.Want) > maxKinds {
		return nil, protocolError("welcome wants %d inventories, limit %d", len(w.Want), maxKinds)
	}
	e.welcomed = true
	both, unknown := negotiate(offered(e.cfg.Features), w.Features)
	effects := []Effect{Welcomed{Version: w.Version, Features: both, Unknown: unknown, Frame: w}}
	for _, id := range w.Want {
		effects = append(effects, SendInventory{object.ID(id)})
	}
	return effects, nil
}

// Applied tells that the batch of that number, and all before it, are committed.
func (e *Edge) Applied(seq uint64) []Effect {
	e.applied = seq
	effects := []Effect{Send{&wire.Frame{Body: &wire.Frame_Ack{Ack: &wire.Ack{Seq: seq}}}}}
	return append(effects, e.markSynced()...)
}

func (e *Edge) markSynced() []Effect {
	var effects []Effect
	for len(e.synced) > 0 && e.synced[0].Seq <= e.applied {
		m := MarkSynced{Restored: e.synced[0].Restored}
		for _, id := range e.synced[0].Kinds {
			m.Kinds = append(m.Kinds, object.ID(id))
		}
		effects = append(effects, m)
		e.synced = e.synced[1:]
	}
	return effects
}

// Queued tells of a new entry in the outbox. At the start of a session every entry is told.
func (e *Edge) Queued(h Head) { e.out.add(h) }

// Gone tells that an entry left the outbox without an answer: it was superseded, dropped by a quota or its time to
// live ended. If it is under way, it takes its place in the window until the hub answers.
func (e *Edge) Gone(id uint64) { e.out.remove(id) }

// Unsent tells that the entry of a SendWrite had left the outbox and was not sent.
func (e *Edge) Unsent(id uint64) { e.out.unsent(id) }

// Heard notes that the hub is alive though its frame is not complete yet: on a thin link a large object takes minutes.
func (e *Edge) Heard(at time.Time) { e.lastReceived = later(e.lastReceived, at) }

// Vitals is what an edge tells the hub with each ping.
type Vitals struct {
	// LeaseAge is the time since the kubelet last renewed its lease; negative where it never did.
	LeaseAge time.Duration
	// Dropped counts queued messages that were dropped, by class.
	Dropped []uint64
}

// Poll returns what can be sent now, and when to call again at the latest. The caller calls it after every event.
func (e *Edge) Poll(now time.Time, v Vitals) (effects []Effect, next time.Time) {
	if dead := e.lastReceived.Add(3*e.cfg.PingInterval + time.Second); !now.Before(dead) {
		return []Effect{Close{Reason: wire.Reason_REASON_UNSPECIFIED, Message: fmt.Sprintf("nothing was received for %s: three pings were not answered", now.Sub(e.lastReceived).Round(time.Second))}}, now.Add(time.Hour)
	} else {
		next = dead
	}
	if !e.welcomed {
		return nil, next
	}
	if due := e.lastPing.Add(e.cfg.PingInterval); !now.Before(due) {
		e.lastPing = now
		e.pings++
		effects = append(effects, Send{&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: e.pings,
			LeaseAgeMs: leaseAge(v.LeaseAge), Dropped: v.Dropped}}}})
	}
	next = earlier(next, e.lastPing.Add(e.cfg.PingInterval))
	ids, retry := e.out.take(now)
	for _, id := range ids {
		effects = append(effects, SendWrite{id})
	}
	if !retry.IsZero() {
		next = earlier(next, retry)
	}
	return effects, next
}

func leaseAge(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return d.Milliseconds()
}
