package twin

import (
	"cmp"
	"time"
)

// A Stamp orders what happened at one edge. It is a hybrid logical clock (Kulkarni and others, "Logical Physical Clocks",
// 2014): the wall clock's milliseconds where that advances, and a count where it does not.
type Stamp struct {
	// Wall is in milliseconds since 1970, never below that of an earlier Stamp.
	Wall int64 `json:"wall"`
	// Logical tells apart Stamps of one Wall.
	Logical uint32 `json:"logical,omitempty"`
}

// Compare is below, at or above 0 where s is before, equal to or after o.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.Wall, o.Wall), cmp.Compare(s.Logical, o.Logical))
}

// Next is the Stamp of what happens after s at a wall clock's now, which may be wrong.
func (s Stamp) Next(now time.Time) Stamp {
	if wall := now.UnixMilli(); wall > s.Wall {
		return Stamp{Wall: wall}
	}
	if s.Logical == ^uint32(0) {
		return Stamp{Wall: s.Wall + 1}
	}
	return Stamp{Wall: s.Wall, Logical: s.Logical + 1}
}
