package store

import (
	"errors"
	"log/slog"

	"github.com/tether-edge/tether/common/object"
)

// salvageTries bounds how many unreadable rows in a row are stepped over in one table.
const salvageTries = 20_000

// salvage saves rows of a damaged database into a new one. A row is taken only if its checksum is right, so whatever
// SQLite makes of a damaged page does no harm.
type salvage struct {
	log *slog.Logger
	to  *conn
	// keepKinds: there is no copy, so the kinds that were synced are taken over if all objects could be read.
	keepKinds bool

	writes, objects int
	// complete: every row of the object tables was read, and what was synced is taken over.
	complete bool
	// whole: every row of the objects was.
	whole bool
	// highest is the highest local resourceVersion seen.
	highest uint64
}

// from reads the database at path. scratch is the path of a file that may be made on the way. An error is one of the
// new database; the old one's are passed over.
func (v *salvage) from(path, scratch string, scripts []string) error {
	c, err := openDamaged(path, scratch, scripts)
	if err != nil {
		v.log.Error("nothing can be read from the damaged database", "error", err)
		return nil
	}
	defer func() {
		if err := c.close(); err != nil {
			v.log.Warn("closing the damaged database failed", "error", err)
		}
	}()
	if b, err := readBlock(c); err == nil {
		v.highest = max(v.highest, b)
	}
	if sealed, err := c.meta(metaSealed); err == nil && sealed != "" {
		if err := v.to.setMeta(metaSealed, sealed); err != nil {
			return err
		}
	}
	whole, err := v.objectRows(c)
	if err != nil {
		return err
	}
	if err := v.outboxRows(c); err != nil {
		return err
	}
	if err := v.tokenRows(c); err != nil {
		return err
	}
	if err := v.noteRows(c); err != nil {
		return err
	}
	if err := v.lossRows(c); err != nil {
		return err
	}
	return v.kindRows(c, whole)
}

// rows calls row for every row of a table that can be read, by rowid, stepping over what cannot. whole is false if
// anything was stepped over. row returns errSum, passed over, or an error of the new database.
func (v *salvage) rows(c *conn, table, columns string, row func(scan func(...any) error) error) (whole bool, err error) {
	whole = true
	last, tries := int64(0), 0
	for tries < salvageTries {
		var target error
		q := "SELECT rowid, " + columns + " FROM " + table + " NOT INDEXED WHERE rowid > ? ORDER BY rowid"
		err := c.query(q, []any{last}, func(scan func(...any) error) error {
			err := row(func(dest ...any) error {
				var id int64
				if err := scan(append([]any{&id}, dest...)...); err != nil {
					return err
				}
				last, tries = id, 0
				return nil
			})
			switch {
			case err == nil:
			case errors.Is(err, errTarget):
				target = err
				return err
			default: // a row that does not hold what was written
				whole = false
			}
			return nil
		})
		if target != nil {
			return false, target
		}
		if err == nil {
			return whole, nil
		}
		// Seeking behind an unreadable page works once the rowid is beyond what is on it.
		whole = false
		last++
		tries++
	}
	v.log.Warn("the end of a table could not be read", "table", table)
	return false, nil
}

// errTarget marks errors of the new database: they end the salvage.
var errTarget = errors.New("write what was salvaged")

func target(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(errTarget, err)
}

func (v *salvage) objectRows(c *conn) (bool, error) {
	whole, err := v.rows(c, "objects", objectColumns, func(scan func(...any) error) error {
		r, err := scanRow(scan)
		if err == nil {
			_, err = v.to.sealing.open(r)
		}
		if err != nil {
			return err
		}
		v.highest = max(v.highest, r.LocalRV)
		have, err := v.to.record(r.Key)
		if err != nil {
			return target(err)
		}
		// The damaged file is newer than the copy.
		if have != nil && have.LocalRV > r.LocalRV {
			return nil
		}
		v.objects++
		return target(v.to.putRow(r))
	})
	return whole && quickCheck(c, "objects") == nil, err
}

func (v *salvage) outboxRows(c *conn) error {
	_, err := v.rows(c, "outbox", "id, "+outboxColumns, func(scan func(...any) error) error {
		o, err := scanOutgoing(scan)
		if err != nil {
			return err
		}
		v.writes++
		_, err = v.to.putOutgoing(&o)
		return target(err)
	})
	return err
}

func (v *salvage) tokenRows(c *conn) error {
	_, err := v.rows(c, "tokens", tokenColumns, func(scan func(...any) error) error {
		r, err := scanToken(scan)
		if err == nil {
			_, _, err = v.to.sealing.openToken(r)
		}
		if err != nil {
			return err
		}
		return target(v.to.putToken(r))
	})
	return err
}

func (v *salvage) noteRows(c *conn) error {
	_, err := v.rows(c, "notes", noteColumns, func(scan func(...any) error) error {
		n, err := scanNote(scan)
		if err != nil {
			return err
		}
		return target(v.to.putNote(&n))
	})
	return err
}

// lossRows takes over the counters; they are not worth more than a try.
func (v *salvage) lossRows(c *conn) error {
	var out error
	err := c.query("SELECT class, reason, count FROM losses", nil, func(scan func(...any) error) error {
		var class, n int64
		var reason string
		if err := scan(&class, &reason, &n); err != nil {
			return err
		}
		_, err := v.to.exec("INSERT OR REPLACE INTO losses (class, reason, count) VALUES (?,?,?)", class, reason, n)
		out = target(err)
		return out
	})
	if err != nil && out == nil {
		v.log.Warn("counters of lost messages could not be read", "error", err)
	}
	return out
}

// kindRows takes over which kinds were synced, if the objects are all there and no copy says so. Otherwise the store
// counts as never synced: a kubelet that saw half of its pods would kill the rest (I8).
func (v *salvage) kindRows(c *conn, whole bool) error {
	if v.whole = whole; !v.keepKinds || !whole || quickCheck(c, "kinds") != nil {
		return nil
	}
	var kinds []string
	if err := c.query("SELECT kind FROM kinds", nil, func(scan func(...any) error) error {
		var k string
		err := scan(&k)
		kinds = append(kinds, k)
		return err
	}); err != nil {
		return nil
	}
	for _, k := range kinds {
		if _, ok := object.Lookup(object.ID(k)); !ok {
			continue
		}
		if _, err := v.to.exec("INSERT OR IGNORE INTO kinds (kind) VALUES (?)", k); err != nil {
			return err
		}
	}
	v.complete = true
	return nil
}
