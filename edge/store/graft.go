package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const pageSize = 4096

// openDamaged opens a damaged database for reading. Where page 1 is not what it was, SQLite reads nothing, since that
// page says where every table begins. So a scratch copy gets page 1 of a new database: the same migrations put the
// tables in the same places. What comes of a wrong guess is caught by the checksums of the rows.
func openDamaged(path, scratch string, scripts []string) (*conn, error) {
	c, err := openConn(path, modeReadOnly)
	if err == nil {
		if hasSchema(c, scripts) {
			return c, nil
		}
		err = c.close()
	}
	if err != nil && !isDamage(err) {
		return nil, err
	}
	if err := graft(path, scratch, scripts); err != nil {
		return nil, err
	}
	return openConn(scratch, modeReadOnly)
}

// hasSchema reports whether the tables can be found.
func hasSchema(c *conn, scripts []string) bool {
	version, err := schemaVersion(c, len(scripts))
	if err != nil || version == 0 {
		return false
	}
	_, err = c.number("SELECT count(*) FROM outbox WHERE id < 0")
	return err == nil
}

// graft makes scratch of the database at path, with a new page 1.
func graft(path, scratch string, scripts []string) error {
	head, err := firstPage(scratch, scripts)
	if err != nil {
		return err
	}
	if err := copyFile(path, scratch); err != nil {
		return err
	}
	if err := copyFile(path+"-wal", scratch+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(scratch, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("graft: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		// Offsets from https://sqlite.org/fileformat.html: size in pages, then the list of free pages, here none.
		binary.BigEndian.PutUint32(head[28:], uint32(info.Size()/pageSize))
		clear(head[32:40])
		_, err = f.WriteAt(head, 0)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("graft: %w", err)
	}
	return nil
}

// firstPage returns page 1 of a new database of the newest schema, which is made at path and removed again.
func firstPage(path string, scripts []string) (page []byte, err error) {
	c, err := openWriter(path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(migrate(c, scripts), c.close()); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("graft: %w", err)
	}
	page = make([]byte, pageSize)
	_, err = io.ReadFull(f, page)
	if err := errors.Join(err, f.Close(), removeDatabase(path)); err != nil {
		return nil, fmt.Errorf("graft: %w", err)
	}
	return page, nil
}
