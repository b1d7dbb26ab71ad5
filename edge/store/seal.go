package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tether-edge/tether/common/object"
)

// A Sealer seals bodies. All methods but Keep are called concurrently.
type Sealer interface {
	// Seal seals a body so that it opens in the same context only, and returns the id of the key, which is not 0.
	Seal(plain, context []byte) (id int64, sealed []byte)
	// Unseal opens what Seal returned. With a key of Keys, an error means that the body or its context is another one.
	Unseal(id int64, sealed, context []byte) ([]byte, error)
	// Keys are the ids of the keys that there are, that of Seal first.
	Keys() []int64
	// Keep forgets all keys but Seal's and these.
	Keep(ids []int64) error
}

// plain is the key id of bodies that are not sealed.
const plain = 0

// sealedKind reports whether objects of a kind are sealed. Tokens are, too. What the outbox holds is no secret, nor are
// notes (those of MQTT's users have hashes of passwords), and all other objects are needed for pods to run on where a key is
// lost.
func sealedKind(id object.ID) bool { return id == object.Secrets }

// errForged: a sealed row is not what was sealed there.
var errForged = errors.New("a sealed row does not open")

// sealing is how rows are sealed; nil seals nothing and opens nothing.
type sealing struct {
	by   Sealer
	keys []int64
}

func newSealing(by Sealer) *sealing {
	if by == nil {
		return nil
	}
	return &sealing{by, by.Keys()}
}

// present is the id of the key that seals.
func (x *sealing) present() int64 {
	if x == nil {
		return plain
	}
	return x.keys[0]
}

// has reports whether there is the key of that id.
func (x *sealing) has(id int64) bool { return id == plain || x != nil && slices.Contains(x.keys, id) }

// readable is the SQL condition of rows that can be opened.
func (x *sealing) readable() string {
	ids := []string{strconv.Itoa(plain)}
	if x != nil {
		for _, id := range x.keys {
			ids = append(ids, strconv.FormatInt(id, 10))
		}
	}
	return "key_id IN (" + strings.Join(ids, ", ") + ")"
}

// sealContext says where a body belongs: its table and column, and what the row says of it.
func sealContext(column string, texts []string, numbers ...uint64) []byte {
	out := append([]byte{}, column...)
	for _, t := range texts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(t)))
		out = append(out, t...)
	}
	for _, n := range numbers {
		out = binary.BigEndian.AppendUint64(out, n)
	}
	return out
}

// A row is a row of table objects as it is stored.
type row struct {
	object.Record
	keyID int64
}

func (r *row) columns() map[string]*[]byte {
	return map[string]*[]byte{"objects.body": &r.Body, "objects.base": &r.Base, "objects.overlay": &r.Overlay}
}

func (r *row) context(column string) []byte {
	return sealContext(column, []string{string(r.Key.Kind), r.Key.Namespace, r.Key.Name, r.Version.UID}, r.Version.RV, r.LocalRV)
}

// seal returns the row of a record.
func (x *sealing) seal(r *object.Record) *row {
	out := &row{Record: *r}
	if x == nil || !sealedKind(r.Key.Kind) {
		return out
	}
	for column, b := range out.columns() {
		if *b != nil {
			out.keyID, *b = x.by.Seal(*b, out.context(column))
		}
	}
	return out
}

// open returns the record of a row. Where the key is not there it is Sealed, and has no body.
func (x *sealing) open(r *row) (*object.Record, error) {
	switch {
	case r.keyID == plain:
		return &r.Record, nil
	case !sealedKind(r.Key.Kind):
		return nil, fmt.Errorf("%s: %w: it is sealed", r.Key, errRow)
	}
	out := *r
	out.Sealed = !x.has(r.keyID)
	for column, b := range out.columns() {
		if *b == nil {
			continue
		}
		if out.Sealed {
			*b = nil
			continue
		}
		var err error
		if *b, err = x.by.Unseal(r.keyID, *b, r.context(column)); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", r.Key, errForged, err)
		}
	}
	return &out.Record, nil
}

func (r *tokenRow) context() []byte {
	return sealContext("tokens.body", []string{r.key, r.podUID}, uint64(r.expires))
}

// sealToken seals the body of a row.
func (x *sealing) sealToken(r *tokenRow) {
	if x != nil {
		r.keyID, r.body = x.by.Seal(r.body, r.context())
	}
}

// openToken returns the body of a row; ok is false where the key is not there.
func (x *sealing) openToken(r *tokenRow) (body []byte, ok bool, err error) {
	switch {
	case r.keyID == plain:
		return r.body, true, nil
	case !x.has(r.keyID):
		return nil, false, nil
	}
	if body, err = x.by.Unseal(r.keyID, r.body, r.context()); err != nil {
		return nil, false, fmt.Errorf("token: %w: %w", errForged, err)
	}
	return body, true, nil
}
