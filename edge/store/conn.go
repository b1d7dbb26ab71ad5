package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/mattn/go-sqlite3"
)

// Bounds on what SQLite takes, chosen for a gateway with little memory and a flash disk.
const (
	// pageSize is what one change of one row writes, in bytes, and flash takes whole blocks of 4 KiB: the log has 24 bytes more with
	// each page, so that a page of 4 KiB would take two blocks, and one of 1 KiB takes one, or two where it lies across.
	pageSize       = 1 << 10
	cacheKiB       = 1024                // page cache of the writer
	readCacheKiB   = 512                 // page cache of a reader
	checkpointEach = walLimit / pageSize // pages after which the write-ahead log is moved into the database
	walLimit       = 1 << 20             // bytes that the write-ahead log keeps after a checkpoint
	busyMillis     = 10_000
)

// A conn is one SQLite connection with its prepared statements. It is not safe for concurrent use.
type conn struct {
	db    *sql.DB
	c     *sql.Conn
	stmts map[string]*sql.Stmt
	// sealing opens and seals rows; nil where none is read as more than it is stored.
	sealing *sealing
	// rows are the bytes of rows written since they were taken, by what; nil where nobody asks.
	rows map[string]int64
}

// A mode is how a database file is opened.
type mode string

const (
	modeCreate   mode = "rwc"
	modeWrite    mode = "rw"
	modeReadOnly mode = "ro"
)

type connector struct{ dsn string }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	return c.Driver().Open(c.dsn)
}

func (c connector) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }

// openConn opens the database at path and runs the pragmas. Nothing is read from the file before the first statement
// that needs it.
func openConn(path string, m mode, pragmas ...string) (*conn, error) {
	if err := registerVFS(); err != nil {
		return nil, err
	}
	// A file: URI, since a bare path with a question mark in it would be cut there.
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=" + string(m)
	db := sql.OpenDB(connector{dsn})
	db.SetMaxOpenConns(1)
	c, err := db.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(wrap("open "+path, err), db.Close())
	}
	out := &conn{db: db, c: c, stmts: map[string]*sql.Stmt{}}
	for _, p := range append([]string{fmt.Sprintf("busy_timeout = %d", busyMillis), "mmap_size = 0", "foreign_keys = OFF"}, pragmas...) {
		if err := out.run("PRAGMA " + p); err != nil {
			return nil, errors.Join(wrap("open "+path+": PRAGMA "+p, err), out.close())
		}
	}
	return out, nil
}

// newPragmas belong to a database without a page: later they write without changing anything, which a full disk refuses.
func newPragmas(pageSize int) []string {
	return []string{fmt.Sprintf("page_size = %d", pageSize), "auto_vacuum = INCREMENTAL"}
}

// openWriter opens the connection that writes to the database at path, which is created if absent.
func openWriter(path string) (*conn, error) { return openWriterOf(path, pageSize) }

// openWriterOf is openWriter, for a database whose pages are of that size if it is created.
func openWriterOf(path string, pageSize int) (*conn, error) {
	pragmas := writerPragmas()
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		pragmas = append(newPragmas(pageSize), pragmas...)
	}
	return openConn(path, modeCreate, pragmas...)
}

func writerPragmas() []string {
	return []string{
		"journal_mode = WAL", "synchronous = FULL", "secure_delete = ON",
		fmt.Sprintf("cache_size = -%d", cacheKiB),
		fmt.Sprintf("wal_autocheckpoint = %d", checkpointEach),
		fmt.Sprintf("journal_size_limit = %d", walLimit),
	}
}

func readerPragmas() []string {
	return []string{"query_only = ON", fmt.Sprintf("cache_size = -%d", readCacheKiB)}
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close(), c.db.Close())...)
}

// run executes statements that are used rarely, and scripts.
func (c *conn) run(script string) error {
	_, err := c.c.ExecContext(context.Background(), script)
	return err
}

func (c *conn) prepare(q string) (*sql.Stmt, error) {
	if s, ok := c.stmts[q]; ok {
		return s, nil
	}
	s, err := c.c.PrepareContext(context.Background(), q)
	if err != nil {
		return nil, err
	}
	c.stmts[q] = s
	return s, nil
}

// exec runs a prepared statement. SQLite calls get no context of their own: each is short, and one that could be
// interrupted costs a goroutine.
func (c *conn) exec(q string, args ...any) (sql.Result, error) {
	s, err := c.prepare(q)
	if err != nil {
		return nil, err
	}
	return s.Exec(args...)
}

// query calls row for each row of the result, until it returns an error.
func (c *conn) query(q string, args []any, row func(scan func(...any) error) error) (err error) {
	s, err := c.prepare(q)
	if err != nil {
		return err
	}
	rows, err := s.Query(args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// number returns the single integer that a query yields, 0 for null.
func (c *conn) number(q string, args ...any) (int64, error) {
	var n sql.NullInt64
	err := c.query(q, args, func(scan func(...any) error) error { return scan(&n) })
	return n.Int64, err
}

// transaction runs f between BEGIN and COMMIT, or ROLLBACK if it fails.
func (c *conn) transaction(f func() error) error {
	if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = c.exec("COMMIT")
	}
	if err != nil {
		return errors.Join(err, c.rollback())
	}
	return nil
}

// rollback ends a transaction unless SQLite has ended it already, as it does on a full disk.
func (c *conn) rollback() error {
	if !c.inTransaction() {
		return nil
	}
	_, err := c.exec("ROLLBACK")
	return err
}

func (c *conn) inTransaction() bool {
	auto := true
	err := c.c.Raw(func(d any) error {
		auto = d.(*sqlite3.SQLiteConn).AutoCommit()
		return nil
	})
	return err == nil && !auto
}
