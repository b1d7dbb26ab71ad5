package store

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

// dice deals values from the fuzzer's bytes; where they are used up it deals zeros.
type dice []byte

func (d *dice) byte() byte {
	if len(*d) == 0 {
		return 0
	}
	b := (*d)[0]
	*d = (*d)[1:]
	return b
}

// value is anything that a column of a damaged page may hold, or usual.
func (d *dice) value(usual any) any {
	switch d.byte() % 8 {
	case 1:
		return nil
	case 2, 3:
		var b [8]byte
		*d = (*d)[copy(b[:], *d):]
		n := int64(binary.BigEndian.Uint64(b[:]))
		if n%2 == 0 {
			return n >> 56 // a small one
		}
		return n
	case 4, 5:
		n := min(int(d.byte()), len(*d))
		b := (*d)[:n:n]
		*d = (*d)[n:]
		if n%2 == 0 {
			return string(b)
		}
		return b
	case 6:
		return math.Inf(int(d.byte()) - 128)
	}
	return usual
}

// anyTable is a table with what a usual row of it holds. sum computes the checksum of a row, or reports that it cannot be
// read as one.
type anyTable struct {
	columns string
	usual   []any
	sum     func(scan func(...any) error) (int64, error)
}

func anyTables(body []byte) map[string]anyTable {
	return map[string]anyTable{
		"tokens": {"key, pod_uid, expires, key_id, sum, body", []any{"k", "u1", int64(5), int64(0), int64(0), []byte("token")},
			func(scan func(...any) error) (int64, error) {
				var r tokenRow
				var sum int64
				err := scan(&r.key, &r.podUID, &r.expires, &r.keyID, &sum, &r.body)
				return sumToken(&r), err
			}},
		"notes": {noteColumns, []any{"b", "k", int64(0), int64(0), []byte("note")},
			func(scan func(...any) error) (int64, error) {
				var n Note
				var id, sum int64
				err := scan(&n.Bucket, &n.Key, &id, &sum, &n.Value)
				return sumNote(&n), err
			}},
		"objects": {objectColumns, []any{"pods", "shop", "a", "u1", int64(5), int64(7), int64(0), int64(0), int64(0), int64(0), int64(0), body, nil, nil},
			func(scan func(...any) error) (int64, error) {
				var r row
				var rv, local, sum int64
				err := scan(&r.Key.Kind, &r.Key.Namespace, &r.Key.Name, &r.Version.UID, &rv, &local, &r.Origin, &r.Tombstone, &r.Held, &r.keyID, &sum, &r.Body, &r.Base, &r.Overlay)
				r.Version.RV, r.LocalRV = uint64(rv), uint64(local)
				return sumRow(&r), err
			}},
		"outbox": {outboxColumns, []any{"pods", "shop", "a", "u1", int64(1), int64(0), int64(0), int64(0), int64(5), int64(0), int64(99), int64(0), int64(0), []byte("{}")},
			func(scan func(...any) error) (int64, error) {
				var o object.Outgoing
				var created, expires, size, id, sum int64
				err := scan(&o.Key.Kind, &o.Key.Namespace, &o.Key.Name, &o.UID, &o.Op, &o.Class, &o.Priority, &o.Policy, &created, &expires, &size, &id, &sum, &o.Body)
				o.Created, o.Expires = fromMillis(created), fromMillis(expires)
				return sumOutgoing(&o), err
			}},
		"losses": {"class, reason, count", []any{int64(1), "full", int64(3)}, nil},
		"kinds":  {"kind", []any{"pods"}, nil},
		"meta":   {"name, value", []any{metaRVBlock, "1000"}, nil},
	}
}

// damagedDatabase makes a database at path of the newest schema whose columns take anything, with one sound object, write
// and token in it, and one row as the dice fall. Where they say so the row has the right checksum, which damage would have
// by chance once in four billion times.
func damagedDatabase(t *testing.T, path string, d dice, body []byte) {
	t.Helper()
	scripts, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	for i := range scripts {
		// Damaged pages do not keep to their declaration.
		scripts[i] = strings.NewReplacer(" TEXT", "", " INTEGER NOT NULL", "", " BLOB", "", " NOT NULL", "", "STRICT, ", "", " STRICT", "", "UNIQUE ", "").Replace(scripts[i])
	}
	c, err := openWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	}()
	sound := object.Record{Key: podKey("sound"), Version: object.Version{UID: "u9", RV: 9}, LocalRV: 9, Body: encode(t, object.Pods, pod("sound", "u9", 9))}
	if err := errors.Join(migrate(c, scripts), c.setMeta(metaID, "old"), c.setMeta(metaRVBlock, "100"), c.put(&sound)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.putOutgoing(&object.Outgoing{Key: sound.Key, UID: "u9", Op: object.OpOverlay, Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	names := []string{"tokens", "objects", "outbox", "losses", "kinds", "meta", "notes"}
	name := names[int(d.byte())%len(names)]
	table := anyTables(body)[name]
	right := d.byte()%2 == 1
	values := make([]any, len(table.usual))
	for i, usual := range table.usual {
		values[i] = d.value(usual)
	}
	insert := "INSERT OR REPLACE INTO " + name + " (" + table.columns + ") VALUES (?" + strings.Repeat(",?", len(values)-1) + ")"
	if _, err := c.exec(insert, values...); err != nil || table.sum == nil || !right {
		return
	}
	var sum int64
	err = c.query("SELECT "+table.columns+" FROM "+name+" ORDER BY rowid DESC LIMIT 1", nil, func(scan func(...any) error) (err error) {
		sum, err = table.sum(scan)
		return err
	})
	if err == nil {
		_, err = c.exec("UPDATE "+name+" SET sum = ? WHERE rowid = (SELECT max(rowid) FROM "+name+")", sum)
	}
	if err != nil {
		t.Log("no checksum:", err)
	}
}

// FuzzDamagedRows opens databases with a row of anything: the store comes up, with what was sound, in working order, and
// with versions that go on growing.
func FuzzDamagedRows(f *testing.F) {
	body := encode(f, object.Pods, pod("a", "u1", 5))
	number := func(n int64) string { return "\x02" + string(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	small := func(n byte) string { return "\x02" + string([]byte{n, 0, 0, 0, 0, 0, 0, 0}) }
	f.Add([]byte("\x00\x00"))                                                // a token whose checksum is wrong
	f.Add([]byte("\x00\x01"))                                                // a good one
	f.Add([]byte("\x00\x01\x01\x01\x01\x01\x01\x01"))                        // one of nulls
	f.Add([]byte("\x00\x01\x00\x00\x00" + small(1)))                         // one that is sealed
	f.Add([]byte("\x01\x01\x00\x00\x00\x00\x00" + number(-1)))               // an object of the last version that there can be
	f.Add([]byte("\x01\x01\x00\x00\x00\x00\x00\x00\x00" + small(32)))        // a tombstone that is neither
	f.Add([]byte("\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" + small(1))) // a sealed object
	f.Add([]byte("\x01\x01\x04\x04list\x00\x00\x00\x00\x00" + small(1)))     // of a kind that nobody knows, made by the edge
	f.Add([]byte("\x02\x01\x00\x00\x00\x00" + small(99) + small(99)))        // a write of an unknown operation and class
	f.Add([]byte("\x02\x01\x00\x00\x00\x00\x00" + small(1) + "\x00\x00" + number(-1) + number(1)))
	f.Add([]byte("\x03\x00" + small(1) + "\x00" + number(-1)))
	f.Add([]byte("\x03\x00\x01\x01\x01"))
	f.Add([]byte("\x04\x00\x04\x04nope"))
	f.Add([]byte("\x04\x00\x02"))
	f.Add([]byte("\x05\x00\x00\x04\x1418446744073709551615"))
	f.Add([]byte("\x05\x00\x00\x04\x02-1"))
	f.Add([]byte("\x05\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := testConfig(filepath.Join(t.TempDir(), "s"))
		s, stop := running(t, cfg, Deps{Log: slog.New(slog.DiscardHandler)})
		stop()
		if err := removeDatabase(s.files.main()); err != nil {
			t.Fatal(err)
		}
		damagedDatabase(t, s.files.main(), data, body)
		s, stop = running(t, cfg, Deps{Log: slog.New(slog.DiscardHandler)})
		defer stop()
		st := s.Status()
		s.mustGet(t, podKey("sound"))
		if q := s.queue(t); len(q) == 0 {
			t.Errorf("status %+v: the sound write is lost", st)
		}
		_, before, err := s.List(t.Context(), object.ConfigMaps, "")
		if err != nil || before < 100 {
			t.Fatalf("status %+v: at version %d, %v; 100 was given out before", st, before, err)
		}
		s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("after", "u", 5, "x")))
		if got := s.mustGet(t, cmKey("after")).LocalRV; got <= before {
			t.Errorf("status %+v: version %d after %d", st, got, before)
		}
		if _, _, _, err := s.LoadToken(t.Context(), "k"); err != nil {
			t.Errorf("status %+v: a token that was kept cannot be read: %v", st, err)
		}
		stop()
		if _, err := check(s.files.main(), s.scripts(t), nil); err != nil {
			t.Errorf("status %+v: what came up is not sound: %v", st, err)
		}
	})
}

func (s *Store) scripts(t testing.TB) []string {
	t.Helper()
	scripts, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	return scripts
}
