package object

import "time"

// Origin says who made a stored row.
type Origin int

const (
	// FromCloud rows came down the link; digests and inventories speak of these alone.
	FromCloud Origin = 0
	// FromEdge rows were made on the edge (mirror pods, local leases): they are never compared with the cloud and
	// never deleted by it.
	FromEdge Origin = 1
)

// A Record is one object in the edge's store.
type Record struct {
	Key Key
	// Version is the cloud's uid and resourceVersion of Base. RV is 0 for rows made on the edge.
	Version Version
	// LocalRV is the resourceVersion that the local API shows. It grows with each change on this edge.
	LocalRV uint64
	Origin  Origin
	// Body is the object as the local API serves it, encoded by Encode: Base with Overlay merged in. The
	// resourceVersion inside it is the cloud's; readers set LocalRV on what they decode.
	Body []byte
	// Base is the object as the cloud sent it. It is nil where there is no overlay, and Body then is the base.
	Base []byte
	// Overlay holds what the edge wrote into the object, encoded by EncodeOverlay; nil if it wrote nothing.
	Overlay []byte
	// Tombstone marks an object that is gone for the local API and whose deletion the cloud has not yet confirmed
	// down the stream. It still counts in digests and inventories.
	Tombstone bool
	// Held marks an object that the cloud lost for cause NODE_GONE and that the site keeps.
	Held bool
	// Withheld marks a pod that the kubelet is not shown: to it the pod is not there, or ends. Everybody else sees it.
	Withheld bool
	// Sealed marks an object that cannot be opened, for the key that it was sealed with is lost: it has no Body, Base and
	// Overlay. The cloud sends it again at the next session; until then it is neither there nor known to be absent.
	Sealed bool
}

// Cloud returns the object as the cloud sent it.
func (r *Record) Cloud() []byte {
	if r.Base != nil {
		return r.Base
	}
	return r.Body
}

// A Change is one atomic step of the store: at most one record replaced or removed, and what goes up because of it.
type Change struct {
	// Expect is the LocalRV that the record must have for the change to happen: 0 means that there is none (a
	// tombstone counts as none).
	Expect uint64
	// Record is what is stored. Its LocalRV is ignored: the store gives the new one.
	Record *Record
	// Remove drops the row of Record.Key instead of storing Record.
	Remove bool
	// Outgoing is queued in the same transaction.
	Outgoing []Outgoing
}

// Op is what an outgoing write does.
type Op int

const (
	// OpOverlay carries the whole overlay of an object: the hub computes the patch against the current object.
	OpOverlay Op = 1
	// OpDelete deletes an object, with its uid as a precondition and a grace period of 0.
	OpDelete Op = 2
	// OpCreate creates an object (an Event). AlreadyExists counts as done.
	OpCreate Op = 3
	// OpPut creates an object or replaces the one of that name (a CSINode).
	OpPut Op = 4
)

// Class groups queued messages that share a byte quota and an order.
type Class int

const (
	// ClassState is what must arrive: overlays, deletes, puts. It has no quota: there is one per object.
	ClassState Class = 0
	// ClassEvent is Kubernetes Events.
	ClassEvent Class = 1
	// ClassTelemetry is device data that is not state.
	ClassTelemetry Class = 2
)

// FullPolicy says what happens to a message that its class's quota has no room for.
type FullPolicy int

const (
	// DropOldest makes room by dropping the oldest messages of the class.
	DropOldest FullPolicy = 0
	// RejectNew refuses the new message.
	RejectNew FullPolicy = 1
)

// Priorities of outgoing writes: higher goes first. The Node's own status comes first, since the cloud evicts from nodes
// that it believes dead; a pod's overlay and its deletion share one, so that they go in the order of writing.
const (
	PriorityNode    = 30
	PriorityCSINode = 25
	PriorityPod     = 20
	PriorityEvent   = 0
)

// An Outgoing write waits in the outbox until the cloud has answered it for good.
type Outgoing struct {
	// ID grows with each write; a newer write of the same key and Op replaces an older one of ClassState.
	ID  uint64
	Key Key
	// UID is a precondition where it is not empty.
	UID string
	Op  Op
	// Body is an overlay (OpOverlay), an encoded object (OpCreate, OpPut) or empty (OpDelete).
	Body  []byte
	Class Class
	// Priority orders the outbox: higher goes first. State comes before events.
	Priority int
	// Expires is when the message may be dropped undelivered; zero means never.
	Expires time.Time
	Policy  FullPolicy
	// Created is when the edge made the write, by its own clock.
	Created time.Time
	// Remade says that who made the write, of ClassState, makes it again after a restart. It waits in memory, and costs the disk nothing.
	Remade bool
}

// An Event is one change that a watcher of the store sees.
type Event struct {
	Type EventType
	// Record is the state after the change, or the last state before a deletion with the LocalRV of the deletion.
	Record *Record
	// Previous is the record before a Modified or Deleted event, for watchers with selectors; nil for Added.
	Previous *Record
}

// EventType is Added, Modified or Deleted.
type EventType int

// The changes of a stored object that a watcher sees.
const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// A Call is a request that needs the cloud's answer at once: it is never queued.
type Call struct {
	// Verb is create, get, update, patch or delete.
	Verb string
	Key  Key
	// Subresource is "token" for a TokenRequest, "eviction" for a pod's, "status" for a claim's, else empty.
	Subresource string
	// ContentType is the media type of Body.
	ContentType string
	Body        []byte
	// Query holds URL parameters that matter to the API server (fieldManager, dryRun), encoded.
	Query string
}

// Cordon is the body, a merge patch, of the one patch of its Node's spec that a node may call for: that it takes no more
// pods. Whether it takes them again is the cloud's to say.
const Cordon = `{"spec":{"unschedulable":true}}`

// A Reply is the API server's answer to a Call.
type Reply struct {
	// Code is the HTTP status code.
	Code int
	// ContentType is the media type of Body: an object, or a metav1.Status where Code is not 2xx.
	ContentType string
	Body        []byte
}

// An Item is one object as the hub sends it.
type Item struct {
	Version Version
	// Body is the encoded object, compressed by wire.Compressor where Compressed is set. It is made once per version
	// and shared by all sessions: readers must not change it.
	Body       []byte
	Compressed bool
}
