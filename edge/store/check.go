package store

import (
	"errors"
	"fmt"

	"github.com/tether-edge/tether/common/object"
)

// check reads a database from end to end without changing it: SQLite's own check of its structure, and our checksum of
// every row, and the seal of those whose key is there. It returns an error that isDamage knows, or ErrNewer, or what the file system says; version is the schema,
// 0 for a database without one.
func check(path string, scripts []string, seals *sealing) (version int, err error) {
	c, err := openConn(path, modeReadOnly)
	if err != nil {
		return 0, err
	}
	c.sealing = seals
	defer func() { err = errors.Join(err, c.close()) }()
	if version, err = schemaVersion(c, len(scripts)); err != nil {
		return 0, err
	}
	if err := quickCheck(c, ""); err != nil {
		return 0, err
	}
	if version == 0 {
		n, err := c.number("SELECT count(*) FROM sqlite_master")
		if err == nil && n > 0 {
			err = fmt.Errorf("tables without a schema version: %w", ErrDamaged)
		}
		return 0, err
	}
	return version, checkRows(c, version)
}

// quickCheck runs SQLite's check on the whole database or on one table.
func quickCheck(c *conn, table string) error {
	q := "PRAGMA quick_check"
	if table != "" {
		q += "(" + table + ")"
	}
	first := ""
	err := c.query(q, nil, func(scan func(...any) error) error {
		if err := scan(&first); err != nil {
			return err
		}
		return errStop
	})
	if err != nil && !errors.Is(err, errStop) {
		return wrap("check", err)
	}
	if first != "ok" {
		return fmt.Errorf("check: %s: %w", first, ErrDamaged)
	}
	return nil
}

// notesSince is the schema that brought table notes.
const notesSince = 2

// checkRows reads every row that Open will read or that has a checksum. A table that the schema has and the database lacks
// is damage, too.
func checkRows(c *conn, schema int) error {
	type table struct {
		q    string
		scan func(func(...any) error) error
	}
	tables := []table{
		{selectAll, func(scan func(...any) error) error { _, err := c.scanRecord(scan); return err }},
		{selectOutbox, func(scan func(...any) error) error { _, err := scanOutgoing(scan); return err }},
		{"SELECT " + tokenColumns + " FROM tokens", func(scan func(...any) error) error {
			r, err := scanToken(scan)
			if err == nil {
				_, _, err = c.sealing.openToken(r)
			}
			return err
		}},
		{"SELECT kind FROM kinds", func(scan func(...any) error) error { return ours(scan(new(object.ID))) }},
		{"SELECT class, reason, count FROM losses", func(scan func(...any) error) error { return ours(scan(new(int64), new(string), new(int64))) }},
	}
	if schema >= notesSince {
		tables = append(tables, table{"SELECT " + noteColumns + " FROM notes", func(scan func(...any) error) error { _, err := scanNote(scan); return err }})
	}
	for _, t := range tables {
		if err := c.query(t.q, nil, t.scan); err != nil {
			return wrap("check", err)
		}
	}
	id, err := c.meta(metaID)
	if err != nil {
		return err
	}
	if id == "" { // between the migration and the first identity
		return nil
	}
	_, err = readBlock(c)
	return err
}
