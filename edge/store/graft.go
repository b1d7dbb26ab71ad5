package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// formerPageSize is what databases have that were made before pageSize was chosen, until they are made anew.
const formerPageSize = 4096

// openDamaged opens a damaged database for reading. Where page 1 is not what it was, SQLite reads nothing, since that
// page says where every table begins. So a scratch copy gets the pages of a new database that say so: the same migrations put the
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
	// A log says how large pages are, and what is in it is found by their numbers: a wrong guess would read the rest at the wrong places.
	if size, ok := logPageSize(path); ok {
		return openGrafted(path, scratch, scripts, size)
	}
	// Without one page 1 alone says it. Table meta is where it is expected only if they are that large.
	c, err = openGrafted(path, scratch, scripts, formerPageSize)
	if err == nil {
		if _, err = readBlock(c); err == nil {
			return c, nil
		}
		err = errors.Join(err, c.close())
	}
	if !isDamage(err) {
		return nil, err
	}
	return openGrafted(path, scratch, scripts, pageSize)
}

// logPageSize returns the size of pages that the header of a database's log says, if there is a log.
func logPageSize(path string) (int, bool) {
	f, err := os.Open(path + "-wal")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	// https://sqlite.org/fileformat.html: the magic number, whose last bit says how checksums are made, the format, the size of pages.
	const magic = 0x377f0682
	var head [12]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || binary.BigEndian.Uint32(head[:])&^1 != magic {
		return 0, false
	}
	size := int(binary.BigEndian.Uint32(head[8:]))
	return size, size == pageSize || size == formerPageSize
}

func openGrafted(path, scratch string, scripts []string, pageSize int) (*conn, error) {
	if err := graft(path, scratch, scripts, pageSize); err != nil {
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

// graft makes scratch of the database at path, with the schema of a new one.
func graft(path, scratch string, scripts []string, pageSize int) error {
	schema, err := schemaPages(scratch, scripts, pageSize)
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
		binary.BigEndian.PutUint32(schema[0][28:], uint32(info.Size()/int64(pageSize)))
		clear(schema[0][32:40])
	}
	for i, page := range schema {
		if err == nil {
			_, err = f.WriteAt(page, int64(i)*int64(pageSize))
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("graft: %w", err)
	}
	return nil
}

// schemaPages returns those pages of a new database of the newest schema that say where its tables are, by their number less one.
// The database is made at path and removed again.
func schemaPages(path string, scripts []string, pageSize int) (pages map[int][]byte, err error) {
	if err := removeDatabase(path); err != nil {
		return nil, err
	}
	c, err := openWriterOf(path, pageSize)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(migrate(c, scripts), c.close()); err != nil {
		return nil, err
	}
	body, err := os.ReadFile(path)
	if err := errors.Join(err, removeDatabase(path)); err != nil {
		return nil, fmt.Errorf("graft: %w", err)
	}
	pages = map[int][]byte{}
	i := 0
	for page := range slices.Chunk(body, pageSize) {
		// All tables but the schema's are empty: a leaf that has rows is of that.
		const leaf, cells = 0x0d, 3
		if i == 0 || page[0] == leaf && binary.BigEndian.Uint16(page[cells:]) > 0 {
			pages[i] = page
		}
		i++
	}
	return pages, nil
}
