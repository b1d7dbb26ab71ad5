package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// copied are the tables of the second copy. The outbox is not among them: an hour later most of it is delivered.
var copied = []string{"meta", "kinds", "objects", "tokens"}

// everything is all tables.
var everything = []string{"meta", "kinds", "objects", "tokens", "outbox", "losses", "notes"}

// podsInterval is the least time between two copies where pods came or went since the last one. A kubelet that starts on
// a copy without a pod that runs ends it, so a copy must not lack one for long; see docs/storage.md.
const podsInterval = time.Minute

// podsPause is that time for a database of this size: a large one is copied less often, for the sake of the flash.
func (s *Store) podsPause() time.Duration {
	const each = 1 << 20
	if info, err := os.Stat(s.files.main()); err == nil {
		return podsInterval * time.Duration(1+info.Size()/each)
	}
	return podsInterval
}

// A copier refreshes the second copy: once a sync was ever completed, if something changed since the last copy, and not
// more often than CopyInterval, or podsInterval where it is about pods.
type copier struct {
	s *Store
	// mu lets one refresh run at a time, and guards what follows.
	mu       sync.Mutex
	seen     uint64 // s.changes at the last look
	last     uint32 // fingerprint of what was copied
	pods     uint32 // fingerprint of the pods in it
	podsSeen uint64 // s.changes when the pods were last those of the copy
	lastTime time.Time
	known    bool
}

func (k *copier) refresh(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.s
	if !s.EverSynced() {
		return nil
	}
	if !k.known {
		k.recall(ctx)
	}
	s.mu.Lock()
	changes := s.changes + 1 // so that the first look of a process counts as a change
	s.mu.Unlock()
	now := s.clock.Now()
	if changes == k.seen {
		return nil
	}
	// A clock that went backwards must not put the copy off for ever.
	since := now.Sub(k.lastTime)
	early := since >= 0 && since < s.cfg.CopyInterval
	if early && (since < s.podsPause() || changes == k.podsSeen) {
		return nil
	}
	var pods, print uint32
	err := s.read(ctx, "fingerprint", func(c *conn) (err error) {
		if pods, err = podPrint(c); err != nil || early && pods == k.pods {
			return err
		}
		print, err = fingerprint(c)
		return err
	})
	if err != nil {
		return err
	}
	if early && pods == k.pods {
		k.podsSeen = changes
		return nil
	}
	if print != k.last {
		// The database itself needs the last room more. The former copy stays meanwhile.
		if info, err := os.Stat(s.files.main()); err == nil && s.lowAfter(info.Size()) {
			return fmt.Errorf("second copy: %w: it would leave less than the floor of %d bytes free", object.ErrFull, s.cfg.FreeSpaceFloor)
		}
		if err := s.copyTo(s.files.copy()); err != nil {
			return err
		}
		s.metrics.copied.Set(float64(now.Unix()))
		s.log.Debug("second copy of the database refreshed", "path", s.files.copy())
		k.last, k.pods, k.lastTime = print, pods, now
	}
	k.seen, k.podsSeen = changes, changes
	return nil
}

// recall learns what the existing copy holds and when it was made. One that cannot be read is made anew.
func (k *copier) recall(context.Context) {
	k.known = true
	info, err := os.Stat(k.s.files.copy())
	if err != nil {
		return
	}
	c, err := openConn(k.s.files.copy(), modeReadOnly)
	if err != nil {
		return
	}
	pods, err := podPrint(c)
	var print uint32
	if err == nil {
		print, err = fingerprint(c)
	}
	if err := errors.Join(err, c.close()); err != nil {
		k.s.log.Warn("the second copy cannot be read and is made anew", "error", err)
		return
	}
	k.last, k.pods, k.lastTime = print, pods, info.ModTime()
	k.s.metrics.copied.Set(float64(info.ModTime().Unix()))
}

// fingerprint sums up what is in the copied tables, from the checksums of their rows.
func fingerprint(c *conn) (uint32, error) {
	h := crc32.New(castagnoli)
	for _, q := range []string{"SELECT kind, 0 FROM kinds ORDER BY kind",
		"SELECT name, sum FROM objects ORDER BY kind, namespace, name", "SELECT key, sum FROM tokens ORDER BY key"} {
		if err := c.query(q, nil, func(scan func(...any) error) error {
			var name string
			var sum int64
			if err := scan(&name, &sum); err != nil {
				return err
			}
			_, err := fmt.Fprintf(h, "%s\x00%d\x00", name, sum)
			return err
		}); err != nil {
			return 0, wrap("fingerprint", err)
		}
		h.Write([]byte{0xff})
	}
	return h.Sum32(), nil
}

// podPrint sums up which pods there are.
func podPrint(c *conn) (uint32, error) {
	h := crc32.New(castagnoli)
	err := c.query("SELECT uid FROM objects WHERE kind = ? AND tombstone = 0 ORDER BY namespace, name", []any{string(object.Pods)},
		func(scan func(...any) error) error {
			var uid string
			if err := scan(&uid); err != nil {
				return err
			}
			_, err := fmt.Fprintf(h, "%s\x00", uid)
			return err
		})
	return h.Sum32(), wrap("fingerprint of pods", err)
}

// copyTo writes the copied tables, as of one moment, into a new file and moves it to path.
func (s *Store) copyTo(path string) (err error) {
	tmp := path + ".new"
	if err := removeDatabase(tmp); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeDatabase(tmp))
		}
	}()
	_, before := written()
	scripts, err := migrations(migrationFiles)
	if err == nil {
		err = s.fillFrom(tmp, scripts, copied)
	}
	_, after := written()
	s.spent.add(s.spent.now(), wornCopy, after-before)
	if err != nil {
		return fmt.Errorf("second copy: %w", err)
	}
	return moveIn(tmp, path)
}

// fillFrom makes a new database at tmp with what the present one, live, has in these tables, and runs the statements.
func (s *Store) fillFrom(tmp string, scripts, tables []string, statements ...string) (err error) {
	// No journal: a copy that is cut short is thrown away.
	c, err := openConn(tmp, modeCreate, append(newPragmas(pageSize), "journal_mode = OFF", "synchronous = OFF",
		fmt.Sprintf("cache_size = -%d", readCacheKiB))...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := migrate(c, scripts); err != nil {
		return err
	}
	if _, err := c.exec("ATTACH ? AS live", "file:"+(&url.URL{Path: s.files.main()}).EscapedPath()+"?mode=ro"); err != nil {
		return wrap("attach", err)
	}
	if err := c.transaction(func() error {
		for _, t := range tables {
			if err := c.run("INSERT INTO main." + t + " SELECT * FROM live." + t); err != nil {
				return wrap("copy "+t, err)
			}
		}
		for _, q := range statements {
			if err := c.run(q); err != nil {
				return wrap(q, err)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return c.run("DETACH live")
}
