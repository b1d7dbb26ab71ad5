package store

import (
	"context"
	"fmt"

	"github.com/tether-edge/tether/common/object"
)

// Limits of a Note, in bytes.
const (
	MaxNoteKey   = 68 << 10 // a topic of MQTT has up to 64 KiB
	MaxNoteValue = 2 << 20  // a property has up to four values of 64 KiB, which JSON may write in six bytes a byte
)

// A Note is a value that a part of edgecore keeps for itself. Buckets tell the parts apart.
type Note struct {
	Bucket, Key string
	// Value is what to keep; nil removes it.
	Value []byte
}

// Keep writes notes and queues writes for the cloud, all or nothing, and returns when they are on the disk, but for those that
// are made again after a restart. An error is object.ErrFull, ErrClosed or ctx's, or says which note is none.
func (s *Store) Keep(ctx context.Context, notes []Note, outgoing ...object.Outgoing) error {
	for _, n := range notes {
		switch {
		case n.Bucket == "" || len(n.Bucket) > MaxNoteKey || n.Key == "" || len(n.Key) > MaxNoteKey:
			return fmt.Errorf("keep a note: bucket of %d and key of %d bytes, expected 1 to %d", len(n.Bucket), len(n.Key), MaxNoteKey)
		case len(n.Value) > MaxNoteValue:
			return fmt.Errorf("keep note %s of %s: %d bytes, expected at most %d", n.Key, n.Bucket, len(n.Value), MaxNoteValue)
		}
	}
	for i := range outgoing {
		if err := checkOutgoing(&outgoing[i]); err != nil {
			return fmt.Errorf("keep notes: %w", err)
		}
	}
	if len(notes)+len(outgoing) == 0 {
		return nil
	}
	remade := 0
	for i := range outgoing {
		if outgoing[i].Remade {
			remade++
		}
	}
	return s.write(ctx, &request{op: "keep notes", durable: true, rvs: remade, do: func(t *tx) error {
		for i := range notes {
			if err := t.c.putNote(&notes[i]); err != nil {
				return err
			}
		}
		for _, o := range outgoing {
			if err := t.queue(o); err != nil {
				return err
			}
		}
		return nil
	}})
}

// Notes calls visit with each note of a bucket, in the order of their keys. visit must not block and must not call the
// store.
func (s *Store) Notes(ctx context.Context, bucket string, visit func(key string, value []byte) error) error {
	return s.read(ctx, "read the notes of "+bucket, func(c *conn) error {
		return c.query("SELECT "+noteColumns+" FROM notes WHERE bucket = ? ORDER BY key", []any{bucket}, func(scan func(...any) error) error {
			n, err := scanNote(scan)
			if err != nil {
				return err
			}
			return visit(n.Key, n.Value)
		})
	})
}

const (
	noteColumns = "bucket, key, key_id, sum, body"

	// In place, as upsertObject: a report of a device is one page then.
	upsertNote = "INSERT INTO notes (" + noteColumns + ") VALUES (?,?,?,?,?) ON CONFLICT (bucket, key) DO UPDATE SET " +
		"key_id = excluded.key_id, sum = excluded.sum, body = excluded.body"
)

func (c *conn) putNote(n *Note) error {
	c.touch(worn(n.Bucket), len(n.Value))
	var err error
	if n.Value == nil {
		_, err = c.exec("DELETE FROM notes WHERE bucket = ? AND key = ?", n.Bucket, n.Key)
	} else {
		_, err = c.exec(upsertNote, n.Bucket, n.Key, plain, sumNote(n), n.Value)
	}
	return wrap("write note "+n.Key+" of "+n.Bucket, err)
}

func scanNote(scan func(...any) error) (Note, error) {
	var n Note
	var keyID, sum int64
	if err := scan(&n.Bucket, &n.Key, &keyID, &sum, &n.Value); err != nil {
		return n, ours(err)
	}
	if err := neverSealed(keyID); err != nil {
		return n, fmt.Errorf("note: %w", err)
	}
	if n.Value == nil {
		n.Value = []byte{} // SQLite's empty body
	}
	if sumNote(&n) != sum {
		return n, fmt.Errorf("note: %w", errSum)
	}
	return n, nil
}

// sumNote is the sum column of table notes.
func sumNote(n *Note) int64 {
	s := newSummer()
	s.text(n.Bucket)
	s.text(n.Key)
	s.blob(n.Value)
	return s.sum()
}
