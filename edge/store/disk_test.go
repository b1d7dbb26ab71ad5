package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/common/object"
)

// tmpfs mounts a file system of the given size.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a tmpfs (these tests run as root): %v", err)
	}
	t.Cleanup(func() {
		// Detached, so that it goes even if something still has a file open.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullDiskLosesNothingAcknowledgedAndHeals(t *testing.T) {
	dir := tmpfs(t, "4m")
	cfg := testConfig(filepath.Join(dir, "s"))
	s, stop := running(t, cfg, Deps{})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	acked := 0
	apply := func(i int) error {
		_, err := s.Apply(t.Context(), object.Change{Outgoing: []object.Outgoing{{Key: cmKey(fmt.Sprint(i)), Op: object.OpPut, Body: make([]byte, 20<<10)}}})
		return err
	}
	var full error
	for full == nil {
		if acked > 1000 {
			t.Fatal("1000 writes of 20 KiB fit into 4 MiB")
		}
		if full = apply(acked); full == nil {
			acked++
		}
	}
	t.Logf("%d writes, then: %v", acked, full)
	if !errors.Is(full, object.ErrFull) {
		t.Fatalf("got %v, expected ErrFull", full)
	}
	if n := len(s.queue(t)); n != acked {
		t.Fatalf("%d writes acknowledged, %d queued", acked, n)
	}
	// It must come up again on the full disk, with all of it.
	stop()
	s, _ = running(t, cfg, Deps{})
	if st := s.Status(); st.Damaged != "" {
		t.Fatalf("a full disk counts as damage: %+v", st)
	}
	if n := len(s.queue(t)); n != acked {
		t.Fatalf("after a restart: %d writes acknowledged, %d queued", acked, n)
	}
	remove(t, ballast)
	if err := apply(acked); err != nil {
		t.Fatalf("room returned, but: %v", err)
	}
	if n := len(s.queue(t)); n != acked+1 {
		t.Fatalf("%d queued, expected %d", n, acked+1)
	}
}

// One change that does not fit takes none of its group along.
func TestAFullDiskRefusesOneOfAGroup(t *testing.T) {
	dir := tmpfs(t, "4m")
	s, err := Open(t.Context(), testConfig(filepath.Join(dir, "s")), Deps{Log: slog.New(slog.DiscardHandler)}) // not running: the test is its writer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	ballast(t, dir, 200<<10)
	var group []*request
	for _, size := range []int{10, 800 << 10, 20} {
		r := &object.Record{Key: cmKey(fmt.Sprint(size)), Version: object.Version{UID: "u"}, Origin: object.FromEdge, Body: make([]byte, size)}
		group = append(group, &request{ctx: t.Context(), op: "put", rvs: 1, done: make(chan error, 1), do: func(t *tx) error { return t.c.put(r) }})
	}
	if err := s.w.serve(group); err != nil {
		t.Fatal(err)
	}
	for i, full := range []bool{false, true, false} {
		if err := <-group[i].done; errors.Is(err, object.ErrFull) != full || !full && err != nil {
			t.Errorf("change %d: %v, expected that it does not fit: %v", i, err, full)
		}
	}
}

// Many changes in one group, of which the disk takes some: those that were refused are not there, the others are.
func TestFullDiskRefusesSingleChanges(t *testing.T) {
	dir := tmpfs(t, "3m")
	s, _ := running(t, testConfig(filepath.Join(dir, "s")), Deps{})
	type result struct {
		i   int
		err error
	}
	results := make(chan result)
	const n = 64
	for i := range n {
		go func() {
			body := make([]byte, 1+i*4<<10)
			_, err := s.Apply(t.Context(), object.Change{Record: &object.Record{Key: cmKey(fmt.Sprint(i)), Version: object.Version{UID: "u"},
				Origin: object.FromEdge, Body: body}})
			results <- result{i, err}
		}()
	}
	ok, refused := 0, 0
	stored := map[int]bool{}
	for range n {
		r := <-results
		switch {
		case r.err == nil:
			ok++
			stored[r.i] = true
		case errors.Is(r.err, object.ErrFull):
			refused++
		default:
			t.Errorf("change %d: %v", r.i, r.err)
		}
	}
	if ok == 0 || refused == 0 {
		t.Errorf("%d stored, %d refused: expected both", ok, refused)
	}
	for i := range n {
		if _, have, err := s.Get(t.Context(), cmKey(fmt.Sprint(i))); err != nil || have != stored[i] {
			t.Errorf("change %d: stored %v, acknowledged %v, %v", i, have, stored[i], err)
		}
	}
}

// One object that does not fit takes nothing else along: what is deleted goes, what fits is there, and a pod that may refer
// to what is missing waits for it (I9).
func TestWhatDoesNotFitStopsNothingElse(t *testing.T) {
	dir := tmpfs(t, "4m")
	s, _ := running(t, testConfig(filepath.Join(dir, "s")), Deps{})
	s.mustBatch(t, upsert(t, object.Pods, pod("old", "u0", 1)), upsert(t, object.ConfigMaps, configMap("old", "u0", 2, "x")))
	ballast(t, dir, 200<<10)
	big := strings.Repeat("0123456789abcdef", 50<<10) // 800 KiB
	err := s.ApplyBatch(t.Context(), []Incoming{
		upsert(t, object.ConfigMaps, configMap("big", "u1", 10, big)),
		upsert(t, object.ConfigMaps, configMap("small", "u2", 11, "x")),
		upsert(t, object.Pods, pod("new", "u3", 12)),
		gone(podKey("old"), object.CauseDeleted),
	})
	if !errors.Is(err, object.ErrPartly) {
		t.Fatalf("got %v, expected ErrPartly", err)
	}
	for k, want := range map[object.Key]bool{cmKey("big"): false, cmKey("small"): true, cmKey("old"): true, podKey("new"): false, podKey("old"): false} {
		if _, have, err := s.Get(t.Context(), k); err != nil || have != want {
			t.Errorf("%s is there: %v, expected %v (%v)", k, have, want, err)
		}
	}
	remove(t, filepath.Join(dir, "ballast"))
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("big", "u1", 10, big)), upsert(t, object.Pods, pod("new", "u3", 12)))
}

// ballast fills a file system but for some bytes.
func ballast(t *testing.T, dir string, but int64) {
	t.Helper()
	free, err := freeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, free-but), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The second copy does not take the last room.
func TestNoCopyIsMadeBelowTheFloor(t *testing.T) {
	dir := tmpfs(t, "8m")
	cfg := testConfig(filepath.Join(dir, "s"))
	cfg.FreeSpaceFloor = 1 << 20
	s, _ := running(t, cfg, Deps{})
	ballast(t, dir, 1<<20)
	s.markAll(t)
	if err := s.copies.refresh(t.Context()); !errors.Is(err, object.ErrFull) {
		t.Errorf("refresh: %v, expected ErrFull", err)
	}
	if exists(s.files.copy()) {
		t.Error("a copy was made")
	}
	remove(t, filepath.Join(dir, "ballast"))
	if err := s.copies.refresh(t.Context()); err != nil || !exists(s.files.copy()) {
		t.Errorf("with room: %v, copy %v", err, exists(s.files.copy()))
	}
}

func TestFileShrinksAfterABacklogWasDelivered(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.EventQuota = 16 << 20
	s, _ := running(t, cfg, Deps{})
	for i := range 80 {
		var batch []object.Outgoing
		for j := range 50 {
			batch = append(batch, event(fmt.Sprint(i, "-", j), 2000))
		}
		if err := s.enqueue(t, batch...); err != nil {
			t.Fatal(err)
		}
	}
	var all []uint64
	for _, h := range s.queue(t) {
		all = append(all, h.ID)
	}
	if len(all) != 4000 {
		t.Fatalf("%d queued", len(all))
	}
	if wal := fileSize(t, s.files.main()+"-wal"); wal > 4<<20 {
		t.Errorf("the log has %d bytes", wal)
	}
	before := fileSize(t, s.files.main())
	for len(all) > 0 {
		n := min(100, len(all))
		if err := s.Drop(t.Context(), all[:n]...); err != nil {
			t.Fatal(err)
		}
		all = all[n:]
	}
	if err := s.shrink(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := fileSize(t, s.files.main()); before < 8<<20 || after > 1<<20 {
		t.Errorf("the file had %d bytes, has %d", before, after)
	}
}

// What was deleted must not stay readable in the file.
func TestDeletedSecretsAreOverwritten(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	const secret = "correct horse battery staple"
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, secret)))
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
	if err := s.SaveToken(t.Context(), "k", "u1", []byte(secret), s.clock.Now()); err != nil {
		t.Fatal(err)
	}
	s.mustBatch(t, gone(cmKey("a"), object.CauseDeleted), gone(podKey("a"), object.CauseDeleted))
	if _, _, ok, err := s.LoadToken(t.Context(), "k"); ok || err != nil {
		t.Fatalf("the token is still there: %v, %v", ok, err)
	}
	stop()
	body, err := os.ReadFile(s.files.main())
	if err != nil {
		t.Fatal(err)
	}
	if indexOf(body, secret) >= 0 {
		t.Error("the deleted secret can be read in the file")
	}
}

// A queued write must survive a power cut; a cache batch need not wait for the disk.
func TestOnlyWhatMustLastWaitsForTheDisk(t *testing.T) {
	s, err := Open(t.Context(), testConfig(t.TempDir()), Deps{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	// The writer alone: the upkeep writes, too.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.w.loop(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	}()
	level := func() (n int64) {
		if err := s.run(t.Context(), func(c *conn) (err error) {
			n, err = c.number("PRAGMA synchronous")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const normal, full = 1, 2
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, "x")))
	if level() != full { // the first batch reserves a block of versions
		t.Error("a block of versions was reserved without FULL")
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 6, "y")))
	if level() != normal {
		t.Error("a cache batch waits for the disk")
	}
	if err := s.enqueue(t, event("e", 1)); err != nil {
		t.Fatal(err)
	}
	if level() != full {
		t.Error("a queued write does not wait for the disk")
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 7, "z")))
	if err := s.SaveToken(t.Context(), "k", "", []byte("t"), s.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if level() != full {
		t.Error("a token does not wait for the disk")
	}
}

// More versions than were reserved are reserved on the way, and numbers go on above them after a restart.
func TestVersionBlocksRunOutWithoutRepeating(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 1, "x")))
	if err := s.run(t.Context(), func(*conn) error {
		s.w.next = s.w.limit // one is left
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Dropping a batch of pods with held Secrets takes more versions than announced; a plain request in its place:
	if err := s.write(t.Context(), &request{op: "take many", do: func(tx *tx) error {
		for range 3 {
			if _, err := tx.rv(); err != nil {
				return err
			}
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	_, before, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	stop()
	s, _ = running(t, cfg, Deps{})
	if _, after, err := s.List(t.Context(), object.ConfigMaps, ""); err != nil || after < before {
		t.Fatalf("%d after %d, %v", after, before, err)
	}
}
