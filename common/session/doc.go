// Package session is the sync state machine of the link: Hub decides what a hub sends to one edge, Edge decides what
// an edge sends to its hub. Both are pure: frames, clock readings and answers of the surroundings go in, Effects come
// out, and the caller does the I/O (cloud/hub and edge/link). docs/protocol.md describes the exchange.
//
// What it promises, and what the simulation in this package tries to break:
//
//   - Per key the edge converges to the hub's current state and never goes back to an older one (I4).
//   - A session holds one entry per distinct object, and a bounded number of bytes in flight (I3).
//   - A delete is sent only on an explicit deletion or on a difference computed from synced caches, with its cause (I8).
//   - A write leaves the edge's outbox only on a final answer, writes of one key stay in order, and a key that fails
//     blocks no other (I2).
//
// Neither type is safe for concurrent use: one goroutine owns each.
package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// ErrProtocol marks a frame that the protocol does not allow at this point. The link is closed and made anew.
var ErrProtocol = errors.New("the peer broke the protocol")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// An Effect is something that the caller must do, in the order in which effects are returned.
type Effect interface{ effect() }

// Send puts a frame on the stream.
type Send struct{ Frame *wire.Frame }

// Close ends the session: the caller sends a Goodbye where it can, and closes the stream.
type Close struct {
	Reason  wire.Reason
	Message string
	// ComeBack (edge) is when the hub wants to see this edge again; 0 if it did not say.
	ComeBack time.Duration
}

// Welcomed tells that the handshake is over. Version and Features are what both ends speak; Unknown lists features
// that only the peer named; see Strangers.
type Welcomed struct {
	Version  uint32
	Features []string
	Unknown  []string
	// Frame is the Welcome itself, for its session name, epoch and server time.
	Frame *wire.Welcome
}

// ApplyBatch (edge) asks to commit a batch in one transaction, then to call Edge.Applied. Batches are applied in the
// order of their effects.
type ApplyBatch struct{ Batch *wire.Batch }

// MarkSynced (edge) asks to note durably that these kinds have completed a sync. All batches before it are applied.
type MarkSynced struct {
	Kinds    []object.ID
	Restored bool
}

// SendWrite (edge) asks to load an outbox entry and to send it as a Write, or to call Edge.Unsent if it is no more.
type SendWrite struct{ ID uint64 }

// DropWrite (edge) asks to remove an outbox entry: the answer is final.
type DropWrite struct {
	Key    object.Key
	Result *wire.Result
}

// WriteFailed (edge) tells that a write was not taken, for the nth time in a row, and when its key is tried again.
type WriteFailed struct {
	Key      object.Key
	Result   *wire.Result
	Failures int
	Again    time.Duration
}

// Answer (edge) hands over the Reply to a Call.
type Answer struct{ Reply *wire.Reply }

// OpenTunnel (edge) asks for the connection that carries streams beside the sync.
type OpenTunnel struct{}

// SendInventory (edge) asks to send one or more Inventory frames of a kind. No batch of the kind is being applied.
type SendInventory struct{ Kind object.ID }

// DoWrite (hub) asks to apply a write to the API server and then to call Hub.Written. Writes of one key come one at a
// time.
type DoWrite struct{ Write *wire.Write }

// DoCall (hub) asks to make a call and then to send a Reply.
type DoCall struct{ Call *wire.Call }

// CheckRevision (hub) asks for the API server's own resourceVersion by a quorum read, and then to call
// Hub.RevisionChecked: the edge holds a newer version than the hub's cache.
type CheckRevision struct{}

// DeclareRestore (hub) tells that the API server is older than what an edge holds: etcd was restored. The caller
// changes the epoch, counts it and says so.
type DeclareRestore struct {
	Key    object.Key
	Held   uint64
	Server uint64
}

// Alive (hub) reports the age of the kubelet's last lease renewal; negative where it never renewed.
type Alive struct {
	LeaseAge     time.Duration
	PingInterval time.Duration
	Dropped      []uint64
}

func (Send) effect()           {}
func (Close) effect()          {}
func (Welcomed) effect()       {}
func (ApplyBatch) effect()     {}
func (MarkSynced) effect()     {}
func (SendWrite) effect()      {}
func (DropWrite) effect()      {}
func (WriteFailed) effect()    {}
func (Answer) effect()         {}
func (SendInventory) effect()  {}
func (DoWrite) effect()        {}
func (DoCall) effect()         {}
func (CheckRevision) effect()  {}
func (DeclareRestore) effect() {}
func (Alive) effect()          {}
func (OpenTunnel) effect()     {}

// negotiate returns the features that both ends named, in the order of ours, and those that only the peer named.
func negotiate(ours, theirs []string) (both, unknown []string) {
	have := map[string]bool{}
	for _, f := range theirs {
		have[f] = true
	}
	for _, f := range ours {
		if have[f] {
			both = append(both, f)
			delete(have, f)
		}
	}
	for _, f := range theirs {
		if have[f] {
			unknown = append(unknown, f)
			delete(have, f)
		}
	}
	return both, unknown
}

func highestCommon(ours, theirs []uint32) (uint32, bool) {
	var best uint32
	for _, a := range ours {
		for _, b := range theirs {
			if a == b && a > best {
				best = a
			}
		}
	}
	return best, best > 0
}
