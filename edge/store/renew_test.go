package store

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

// makeFormer gives the closed store of s pages of the size that versions before made.
func makeFormer(t *testing.T, s *Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "former.db")
	scripts, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openWriterOf(path, formerPageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(c, scripts); err != nil {
		t.Fatal(err)
	}
	if _, err := c.exec("ATTACH ? AS live", "file:"+(&url.URL{Path: s.files.main()}).EscapedPath()+"?mode=ro"); err != nil {
		t.Fatal(err)
	}
	for _, table := range append([]string{"sqlite_sequence"}, everything...) {
		if err := c.run("DELETE FROM main." + table + "; INSERT INTO main." + table + " SELECT * FROM live." + table); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.run("DETACH live"), c.close(), removeDatabase(s.files.main()), moveIn(path, s.files.main())); err != nil {
		t.Fatal(err)
	}
}

func pageSizeOf(t *testing.T, s *Store) (n int64) {
	t.Helper()
	if err := s.run(t.Context(), func(c *conn) (err error) {
		n, err = c.number("PRAGMA page_size")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A database with the pages of a former version is made anew at the first start, with all that is in it; where there is no room
// for two of them it is used as it is, and the next start does it.
func TestADatabaseOfLargePagesIsMadeAnew(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 60)
	if err := s.Keep(t.Context(), []Note{{Bucket: "twin", Key: "k", Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	id, queued := s.ID(), fmt.Sprint(ids(s.queue(t)))
	stop()
	makeFormer(t, s)

	floor := cfg.FreeSpaceFloor
	for _, c := range []struct{ floor, size int64 }{{1 << 60, formerPageSize}, {floor, pageSize}} {
		cfg.FreeSpaceFloor = c.floor
		s, stop = running(t, cfg, Deps{})
		if got := pageSizeOf(t, s); got != c.size {
			t.Errorf("with a floor of %d: pages of %d bytes, expected %d", c.floor, got, c.size)
		}
		if st := s.Status(); st.Damaged != "" || s.ID() != id {
			t.Errorf("status %+v, id %s, expected that of before, %s", st, s.ID(), id)
		}
		if got := fmt.Sprint(ids(s.queue(t))); got != queued {
			t.Errorf("queued: %s, expected %s", got, queued)
		}
		mustServe(t, s, 60)
		queued = fmt.Sprint(ids(s.queue(t)))
		notes := 0
		if err := s.Notes(t.Context(), "twin", func(string, []byte) error { notes++; return nil }); err != nil || notes != 1 {
			t.Errorf("%d notes, %v", notes, err)
		}
		stop()
	}
}

// The beginning of a file says how large its pages are. Where that is lost, all rows are found whichever size they had.
func TestADatabaseOfLargePagesIsSalvaged(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 60)
	waitForCopy(t, s)
	stop()
	makeFormer(t, s)
	smash(t, s.files.main(), 0, formerPageSize, 2)
	s, _ = running(t, cfg, Deps{})
	if st := s.Status(); st.Damaged == "" || st.Writes != 2 || st.Objects != 62 {
		t.Errorf("status %+v: page 1 alone is lost, so all rows can be salvaged", st)
	}
	mustServe(t, s, 60)
	s.mustBeAbsent(t, podKey("dead"))
	if _, ok, err := s.Get(t.Context(), object.Key{Kind: object.Pods, Namespace: "shop", Name: "a"}); err != nil || !ok {
		t.Errorf("pod a is there: %t, %v", ok, err)
	}
}
