package object

import "errors"

// Errors that the edge's store answers with; test with errors.Is.
var (
	// ErrConflict: the record is not in the state that the change expected. Read again and retry.
	ErrConflict = errors.New("the object was changed meanwhile")
	// ErrExpired: the store no longer keeps the changes since that resourceVersion. List again.
	ErrExpired = errors.New("the requested resourceVersion is too old")
	// ErrFull: the class's byte quota or the floor of free disk space leaves no room.
	ErrFull = errors.New("the store has no room")
	// ErrPartly: some objects of a batch had no room, and are as if they had not come; the others are committed.
	ErrPartly = errors.New("some objects had no room")
	// ErrOffline: there is no link to the cloud, or it did not answer in time.
	ErrOffline = errors.New("no link to the cloud")
)

// Cause says why an object is no longer what the cloud sends to a node. Every downward delete carries one (I8).
type Cause int

const (
	// CauseDeleted: the object was deleted in the cloud.
	CauseDeleted Cause = 1
	// CauseNodeGone: the Node is absent or has another uid, or the pod was collected because its Node was missing.
	// The edge keeps the object and all that it references.
	CauseNodeGone Cause = 2
	// CauseOutOfInterest: the object exists, but nothing on this node refers to it any more.
	CauseOutOfInterest Cause = 3
)

func (c Cause) String() string {
	switch c {
	case CauseDeleted:
		return "DELETED"
	case CauseNodeGone:
		return "NODE_GONE"
	case CauseOutOfInterest:
		return "OUT_OF_INTEREST"
	}
	return "UNKNOWN"
}
