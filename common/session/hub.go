package session

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A View is one node's picture of the cluster, from synced caches. Its methods read memory and never block.
type View interface {
	// List visits every object of the kind that the node may see.
	List(kind object.ID, visit func(object.Key, object.Version))
	// Get returns an object; ok is false if it is absent or not visible.
	Get(key object.Key) (item object.Item, ok bool)
	// Cause says why the object of that key and uid is not visible. heldNodeUID is the uid of the Node as the edge
	// knows it.
	Cause(key object.Key, uid, heldNodeUID string) object.Cause
	// Pending reports a key that is about to become visible and must not be taken for deleted meanwhile.
	Pending(key object.Key) bool
	// Revision is the highest resourceVersion that the cache has seen of the kind.
	Revision(kind object.ID) uint64
	// NodeUID is the uid of the Node, empty if it is absent.
	NodeUID() string
	// Kinds lists the kinds that are cached.
	Kinds() []object.ID
}

// HubConfig parametrizes a Hub. The zero value of a field takes the default named beside it.
type HubConfig struct {
	// Node is the name from the edge's certificate.
	Node string
	// Session names this connection in logs of both sides.
	Session string
	Epoch   string
	// Features that this hub offers.
	Features []string
	// Window is the most bytes of batches in flight: sent and not acknowledged (1 MiB). A single larger object goes
	// alone.
	Window int
	// BatchBytes is where a batch is closed (128 KiB).
	BatchBytes int
	// Coalesce is the least time between two versions of one key (250 ms). A key that goes on changing is sent again
	// when it has been quiet for half of it, and every fourfold of it at the latest.
	Coalesce time.Duration
	// Gather is the least time between two small batches without a pod (20 ms): what changes meanwhile goes together,
	// in one frame, one commit and one acknowledgement. The first batch after it goes at once.
	Gather time.Duration
	// RecheckBehind is how often the API server is asked again while the edge is ahead of the cache (2 s).
	RecheckBehind time.Duration
}

// Limits on what an edge may ask of a session.
const (
	ranks    = 4
	podRank  = 3
	maxKinds = 64
	// maxWrites bounds the writes without an answer; the edge's own window is smaller.
	maxWrites = 256
	// maxCallHead bounds what a call has beside its body, in bytes: names, a media type, some parameters.
	maxCallHead = 16 << 10
)

// Hub is the hub's half of one session.
type Hub struct {
	cfg  HubConfig
	view View

	version      uint32 // 0 until Hello was accepted
	heldNodeUID  string // uid of the Node that the edge's pods belong to; see settle
	pingInterval time.Duration
	lastReceived time.Time

	// compact holds the place of each kind in Hello, plus one; nil where the edge does not know compact items.
	compact map[object.ID]uint32

	kinds     []object.ID                                 // those that this session syncs, known to object.Lookup
	awaiting  map[object.ID]map[object.Key]object.Version // kinds whose Inventory is not complete
	listed    int                                         // entries of all inventories so far
	entries   map[object.Key]*entry
	queues    [ranks]fifo // ready keys by rank
	removals  fifo        // ready keys of non-pods that are no longer visible: they go last
	later     timers      // delayed keys
	behind    map[object.Key]time.Time
	checked   time.Time // when the last CheckRevision was asked for
	restored  bool
	announced bool // Synced was sent

	seq      uint64
	batched  time.Time // when the last batch was made
	inFlight int
	flights  []flight // unacknowledged batches, oldest first

	writes map[object.Key][]*wire.Write // received and not answered, by key: the first of each is being applied
	count  int                          // writes in total
	held   int                          // bytes that they take, see Held
}

// flight is a batch that is not acknowledged.
type flight struct {
	seq  uint64
	size int
}

// NewHub returns the hub's half of a session whose first frame is still to come.
func NewHub(cfg HubConfig, view View, now time.Time) *Hub {
	cfg.Window = cmp.Or(cfg.Window, 1<<20)
	cfg.BatchBytes = cmp.Or(cfg.BatchBytes, 128<<10)
	cfg.Coalesce = cmp.Or(cfg.Coalesce, 250*time.Millisecond)
	cfg.Gather = cmp.Or(cfg.Gather, 20*time.Millisecond)
	cfg.RecheckBehind = cmp.Or(cfg.RecheckBehind, 2*time.Second)
	return &Hub{
		cfg: cfg, view: view, lastReceived: now, pingInterval: 15 * time.Second,
		awaiting: map[object.ID]map[object.Key]object.Version{},
		entries:  map[object.Key]*entry{}, behind: map[object.Key]time.Time{}, writes: map[object.Key][]*wire.Write{},
	}
}

// Heard notes that the edge is alive though its frame cannot be taken yet, or is not complete: on a thin link it takes minutes.
func (h *Hub) Heard(at time.Time) { h.lastReceived = later(h.lastReceived, at) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Receive takes a frame from the edge. An error ends the session.
func (h *Hub) Receive(now time.Time, f *wire.Frame) ([]Effect, error) {
	h.lastReceived = now
	if hello := f.GetHello(); hello != nil {
		return h.hello(now, hello)
	}
	if h.version == 0 {
		return nil, protocolError("%s before hello", wire.Name(f))
	}
	switch b := f.Body.(type) {
	case *wire.Frame_Inventory:
		return nil, h.inventory(now, b.Inventory)
	case *wire.Frame_Ack:
		return nil, h.ack(b.Ack.Seq)
	case *wire.Frame_Write:
		return h.write(b.Write)
	case *wire.Frame_Call:
		if n := proto.Size(b.Call) - len(b.Call.Body); n > maxCallHead {
			return nil, protocolError("a call of %d bytes beside its body, limit %d", n, maxCallHead)
		}
		return []Effect{DoCall{b.Call}}, nil
	case *wire.Frame_Ping:
		return []Effect{
			Alive{LeaseAge: time.Duration(b.Ping.LeaseAgeMs) * time.Millisecond, PingInterval: h.pingInterval, Dropped: b.Ping.Dropped},
			Send{&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{Id: b.Ping.Id}}}},
		}, nil
	case *wire.Frame_Goodbye:
		return []Effect{Close{Reason: b.Goodbye.Reason, Message: fmt.Sprintf("the edge said goodbye: %.200s", b.Goodbye.Message)}}, nil
	case *wire.Frame_Pong, nil:
		// A body that this version does not know comes from a newer edge and is ignored (I12).
		return nil, nil
	}
	return nil, protocolError("%s from an edge", wire.Name(f))
}

func (h *Hub) hello(now time.Time, m *wire.Hello) ([]Effect, error) {
	if h.version != 0 {
		return nil, protocolError("a second hello")
	}
	version, ok := highestCommon(wire.Versions(), m.Versions)
	if !ok {
		return []Effect{Close{Reason: wire.Reason_REASON_REFUSED, Message: fmt.Sprintf("no common protocol version: the edge speaks %v, this hub %v", m.Versions[:min(len(m.Versions), 16)], wire.Versions())}}, nil
	}
	if m.Node != h.cfg.Node {
		return []Effect{Close{Reason: wire.Reason_REASON_REFUSED, Message: fmt.Sprintf("the edge calls itself %.253q, its certificate says %q: expected the same name", m.Node, h.cfg.Node)}}, nil
	}
	if len(m.Kinds) > maxKinds {
		return nil, protocolError("hello lists %d kinds, limit %d", len(m.Kinds), maxKinds)
	}
	h.version = version
	h.heldNodeUID = m.NodeUid
	if ms := m.PingIntervalMs; ms >= 100 && ms <= 600_000 {
		h.pingInterval = time.Duration(ms) * time.Millisecond
	}
	held := map[object.ID]object.Digest{}
	both, unknown := negotiate(offered(h.cfg.Features), m.Features)
	if slices.Contains(both, featureCompact) {
		h.compact = compactKinds(m.Kinds)
	}
	for _, d := range m.Kinds {
		held[object.ID(d.Kind)] = object.Digest{Count: d.Count, Sum: [2]uint64{d.Sum0, d.Sum1}}
	}
	welcome := &wire.Welcome{Version: version, Features: both, Session: h.cfg.Session, Epoch: h.cfg.Epoch, NodeUid: h.view.NodeUID(),
		ServerTimeUnixMs: now.UnixMilli()}
	for _, id := range h.view.Kinds() {
		if _, ok := object.Lookup(id); !ok {
			continue
		}
		if _, ok := held[id]; !ok {
			continue // an older edge does not know it
		}
		h.kinds = append(h.kinds, id)
		welcome.Kinds = append(welcome.Kinds, string(id))
		if !h.adopt(id, held[id]) {
			h.awaiting[id] = map[object.Key]object.Version{}
			welcome.Want = append(welcome.Want, string(id))
		}
	}
	return []Effect{
		Welcomed{Version: version, Features: both, Unknown: unknown, Frame: welcome},
		Send{&wire.Frame{Body: &wire.Frame_Welcome{Welcome: welcome}}},
	}, nil
}

// adopt takes the view's objects of a kind as held by the edge if their digest is the edge's.
func (h *Hub) adopt(id object.ID, held object.Digest) bool {
	var d object.Digest
	h.view.List(id, func(k object.Key, v object.Version) {
		d.Add(k, v)
		h.entries[k] = &entry{sent: v}
	})
	if d == held {
		return true
	}
	for k := range h.entries {
		if k.Kind == id {
			delete(h.entries, k)
		}
	}
	return false
}

func (h *Hub) inventory(now time.Time, m *wire.Inventory) error {
	id := object.ID(m.Kind)
	got, ok := h.awaiting[id]
	if !ok {
		return protocolError("inventory of %.80q, which was not asked for", m.Kind)
	}
	if len(m.Entries) > wire.MaxInventoryEntries {
		return protocolError("inventory of %d entries, limit %d", len(m.Entries), wire.MaxInventoryEntries)
	}
	if h.listed += len(m.Entries); h.listed > maxInventory {
		return protocolError("the inventories have more than %d entries in all", maxInventory)
	}
	for _, e := range m.Entries {
		k := object.Key{Kind: id, Namespace: e.Namespace, Name: e.Name}
		if err := k.Validate(); err != nil {
			return protocolError("inventory: %v", err)
		}
		if len(e.Uid) > object.MaxUID || e.ResourceVersion == 0 {
			return protocolError("inventory: %s has uid %.40q and resourceVersion %d", k, e.Uid, e.ResourceVersion)
		}
		got[k] = object.Version{UID: e.Uid, RV: e.ResourceVersion}
	}
	if m.More {
		return nil
	}
	delete(h.awaiting, id)
	h.compare(now, id, got)
	return nil
}

// maxInventory bounds the objects that an edge may say it holds. A node has at most some hundred pods; what they refer to
// and the Services of their namespaces are a few thousand more.
const maxInventory = 32_768

// compare marks what the edge holds and what it lacks, in key order so that sessions are reproducible.
func (h *Hub) compare(now time.Time, id object.ID, got map[object.Key]object.Version) {
	for _, k := range slices.SortedFunc(mapKeys(got), object.Key.Compare) {
		h.entries[k] = &entry{sent: got[k]}
		h.markDirty(now, k)
	}
	var missing []object.Key
	h.view.List(id, func(k object.Key, _ object.Version) {
		if _, ok := got[k]; !ok {
			missing = append(missing, k)
		}
	})
	slices.SortFunc(missing, object.Key.Compare)
	for _, k := range missing {
		h.markDirty(now, k)
	}
}

// Changed marks keys whose content or visibility may have changed. It costs one entry per distinct key.
func (h *Hub) Changed(now time.Time, keys []object.Key) {
	for _, k := range keys {
		if !slices.Contains(h.kinds, k.Kind) {
			continue // before Hello, or a kind that is not synced
		}
		if _, ok := h.awaiting[k.Kind]; ok {
			continue // the comparison with the inventory will see it
		}
		h.markDirty(now, k)
	}
}

func (h *Hub) markDirty(now time.Time, k object.Key) {
	e := h.entries[k]
	if e == nil {
		e = &entry{}
		h.entries[k] = e
	}
	switch {
	case e.phase == leaving && h.visible(k):
		// A pod may need it again: it must not wait behind that pod.
		h.enqueue(k, e)
	case e.phase == delayed && !h.visible(k):
		// What it referred to may go at once, and must not go before it.
		h.later.remove(k)
		h.enqueue(k, e)
	case e.phase == delayed:
		e.touched = now
	case e.phase == ready || e.phase == leaving:
		// One entry, however many changes; the current state is read when there is room.
	case e.at.IsZero() || !now.Before(e.at.Add(h.cfg.Coalesce)):
		h.enqueue(k, e)
	case !h.visible(k):
		// What goes is not held up: what it refers to may go at once.
		h.enqueue(k, e)
	default:
		delete(h.behind, k)
		e.phase, e.touched = delayed, now
		h.later.add(k, h.due(e))
	}
}

// due is when a key that was sent lately is sent again: once it has been quiet for half the coalescing time, and never
// sooner after its last version than that time, nor later than four times it.
func (h *Hub) due(e *entry) time.Time {
	due := e.at.Add(h.cfg.Coalesce)
	if quiet := e.touched.Add(h.cfg.Coalesce / 2); quiet.After(due) {
		due = earlier(quiet, e.at.Add(4*h.cfg.Coalesce))
	}
	return due
}

func (h *Hub) visible(k object.Key) bool {
	_, ok := h.view.Get(k)
	return ok || h.view.Pending(k)
}

func (h *Hub) enqueue(k object.Key, e *entry) {
	delete(h.behind, k)
	e.phase = ready
	kind, _ := object.Lookup(k.Kind)
	h.queues[kind.Rank].push(k)
}

func (h *Hub) ack(seq uint64) error {
	if seq > h.seq {
		return protocolError("ack of batch %d, the last one sent is %d", seq, h.seq)
	}
	for len(h.flights) > 0 && h.flights[0].seq <= seq {
		h.inFlight -= h.flights[0].size
		h.flights = h.flights[1:]
	}
	if len(h.flights) == 0 {
		h.flights = nil
	}
	return nil
}

// RevisionChecked takes the answer to CheckRevision: the API server's own resourceVersion, by a quorum read. A failure
// of that read is not reported here; the question is asked again.
func (h *Hub) RevisionChecked(server uint64) []Effect {
	var effects []Effect
	for _, k := range slices.SortedFunc(mapKeys(h.behind), object.Key.Compare) {
		e := h.entries[k]
		if e.sent.RV <= server {
			continue // the cache will get there
		}
		if !h.restored {
			h.restored = true
			effects = append(effects, DeclareRestore{Key: k, Held: e.sent.RV, Server: server})
		}
		// From here on the edge's version counts as older than any: the hub's stream decides.
		e.sent.RV = 1
		h.enqueue(k, e)
	}
	return effects
}

func mapKeys[V any](m map[object.Key]V) func(func(object.Key) bool) {
	return func(yield func(object.Key) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Stats describes a session, for metrics and tests.
type Stats struct {
	Entries, Ready, Delayed, Behind, InFlightBytes, OpenWrites int
	Synced                                                     bool
}

// Stats returns the session's present counts.
func (h *Hub) Stats() Stats {
	return Stats{Entries: len(h.entries), Ready: h.ready(), Delayed: len(h.later), Behind: len(h.behind),
		InFlightBytes: h.inFlight, OpenWrites: h.count, Synced: h.announced}
}
