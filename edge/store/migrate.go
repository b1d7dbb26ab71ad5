package store

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Migrations are files NNNN_name.sql, numbered from 1 without gaps. PRAGMA user_version holds the number of the last
// one that a database has been through. A migration that was released is never changed.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations returns the scripts in order: the first is number 1.
func migrations(files fs.FS) ([]string, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	var out []string
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s: expected number %04d", name, i+1)
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		out = append(out, string(body))
	}
	return out, nil
}

// migrate brings a database to the newest schema, one transaction per step.
func migrate(c *conn, scripts []string) error {
	have, err := schemaVersion(c, len(scripts))
	if err != nil {
		return err
	}
	for n := have; n < len(scripts); n++ {
		if err := c.transaction(func() error {
			if err := c.run(scripts[n]); err != nil {
				return err
			}
			return c.run(fmt.Sprintf("PRAGMA user_version = %d", n+1))
		}); err != nil {
			return fmt.Errorf("migrate the database from schema %d to %d: %w", n, n+1, err)
		}
	}
	return nil
}

// schemaVersion returns the schema of a database, or ErrNewer if it is above known.
func schemaVersion(c *conn, known int) (int, error) {
	have, err := c.number("PRAGMA user_version")
	if err != nil {
		return 0, wrap("read the schema version", err)
	}
	if have < 0 {
		return 0, fmt.Errorf("schema version %d: %w", have, ErrDamaged)
	}
	if int(have) > known {
		return 0, fmt.Errorf("%w: it has schema %d, this edgecore knows schemas up to %d; install the edgecore that wrote it "+
			"or a later one, or move the directory aside to start from the cloud", ErrNewer, have, known)
	}
	return int(have), nil
}
