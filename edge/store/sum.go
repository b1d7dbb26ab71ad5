package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// errSum: a row is not what was written. SQLite checks the structure of its pages, not their content, so a flipped
// bit inside a body is found only by this.
var errSum = errors.New("checksum of a row does not match")

// errRow: a row holds what was never written: a null, a flag that is neither 0 nor 1.
var errRow = errors.New("a row is none of ours")

// ours marks an error of reading a row's columns as damage.
func ours(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errRow, err)
}

// maxRV bounds local resourceVersions: an edge would need centuries to get there.
const maxRV = 1 << 62

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// summer computes the CRC-32C of a row's columns, each preceded by its length (8 bytes, big endian; all ones for null).
type summer struct{ h hash.Hash32 }

func newSummer() summer { return summer{crc32.New(castagnoli)} }

func (s summer) number(n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	s.h.Write(b[:])
}

func (s summer) text(t string) {
	s.number(uint64(len(t)))
	s.h.Write([]byte(t))
}

func (s summer) blob(b []byte) {
	if b == nil {
		s.number(^uint64(0))
		return
	}
	s.number(uint64(len(b)))
	s.h.Write(b)
}

// key adds the id of the key of a sealed row. Plain rows were written before there were any.
func (s summer) key(id int64) {
	if id != plain {
		s.number(uint64(id))
	}
}

func (s summer) sum() int64 { return int64(s.h.Sum32()) }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// sumRow is the sum column of table objects: of the bodies as they are stored, for a checksum of a plain one would let
// guesses at it be tried out.
func sumRow(r *row) int64 {
	s := newSummer()
	s.text(string(r.Key.Kind))
	s.text(r.Key.Namespace)
	s.text(r.Key.Name)
	s.text(r.Version.UID)
	for _, n := range []uint64{r.Version.RV, r.LocalRV, uint64(r.Origin), uint64(flag(r.Tombstone)), uint64(marksOf(&r.Record))} {
		s.number(n)
	}
	s.blob(r.Body)
	s.blob(r.Base)
	s.blob(r.Overlay)
	s.key(r.keyID)
	return s.sum()
}

// sumOutgoing is the sum column of table outbox. The id is not in it: SQLite gives it.
func sumOutgoing(o *object.Outgoing) int64 {
	s := newSummer()
	s.text(string(o.Key.Kind))
	s.text(o.Key.Namespace)
	s.text(o.Key.Name)
	s.text(o.UID)
	for _, n := range []int64{int64(o.Op), int64(o.Class), int64(o.Priority), int64(o.Policy), millis(o.Created), millis(o.Expires)} {
		s.number(uint64(n))
	}
	s.blob(o.Body)
	return s.sum()
}

// sumToken is the sum column of table tokens.
func sumToken(r *tokenRow) int64 {
	s := newSummer()
	s.text(r.key)
	s.text(r.podUID)
	s.number(uint64(r.expires))
	s.blob(r.body)
	s.key(r.keyID)
	return s.sum()
}

// millis is how times are stored: milliseconds since 1970, 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
