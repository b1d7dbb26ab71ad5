package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// fillStore puts n ConfigMaps, a pod with a status, a tombstone and queued writes into the store, and syncs it.
func fillStore(t testing.TB, s *Store, n int) {
	t.Helper()
	var batch []Incoming
	for i := range n {
		batch = append(batch, upsert(t, object.ConfigMaps, configMap(fmt.Sprint("c", i), "u", uint64(i+1), fmt.Sprintf("%01000d", i))))
	}
	batch = append(batch, upsert(t, object.Pods, pod("a", "u1", 5)), upsert(t, object.Pods, pod("dead", "u2", 6)))
	s.mustBatch(t, batch...)
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	r := s.mustGet(t, podKey("dead"))
	dead := *r
	dead.Tombstone = true
	s.mustApply(t, object.Change{Expect: r.LocalRV, Record: &dead,
		Outgoing: []object.Outgoing{{Key: r.Key, UID: "u2", Op: object.OpDelete}}})
	s.markAll(t)
}

func waitForCopy(t testing.TB, s *Store) {
	t.Helper()
	eventually(t, "the second copy", func() bool { return exists(s.files.copy()) })
}

// smash overwrites part of a file with noise.
func smash(t testing.TB, path string, at, n int64, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, n)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	if _, err := f.WriteAt(noise, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func ids(heads []Head) (out []string) {
	for _, h := range heads {
		out = append(out, fmt.Sprint(h.Key, " ", h.Op, " ", h.UID))
	}
	return out
}

// mustServe checks that the store works and holds what fillStore synced.
func mustServe(t testing.TB, s *Store, n int) {
	t.Helper()
	if !s.EverSynced() {
		t.Fatalf("the restored store (%+v) does not count as synced: no pod could start offline", s.Status())
	}
	list, _, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil || len(list) != n {
		t.Fatalf("%d ConfigMaps, %v, expected %d (%+v)", len(list), err, n, s.Status())
	}
	s.mustGet(t, podKey("a"))
	if _, err := s.Apply(t.Context(), withStatus(t, s.mustGet(t, podKey("a")), corev1.PodFailed)); err != nil {
		t.Fatalf("the restored store takes no writes: %v", err)
	}
}

// smashSchema overwrites the pages that say where the tables are.
func smashSchema(t *testing.T, s *Store) {
	body, err := os.ReadFile(s.files.main())
	if err != nil {
		t.Fatal(err)
	}
	hit := int64(0)
	for at := int64(0); at < int64(len(body)); at += pageSize {
		if at == 0 || contains(string(body[at:at+pageSize]), "CREATE TABLE ") {
			smash(t, s.files.main(), at, pageSize, uint64(at))
			hit++
		}
	}
	if hit < 3 {
		t.Fatalf("%d pages hold the schema: the test proves nothing", hit)
	}
}

// After an unclean end a log may hold table meta and not page 1: only its own header says how large the pages are.
func TestWhatALogHoldsDoesNotHideTheSizeOfPages(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 60)
	waitForCopy(t, s)
	if err := s.run(t.Context(), func(c *conn) error {
		// The log begins anew, and the next write reserves versions, which are in table meta.
		s.w.next = s.w.limit + 1
		return c.query("PRAGMA wal_checkpoint(TRUNCATE)", nil, func(func(...any) error) error { return nil })
	}); err != nil {
		t.Fatal(err)
	}
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodPending))
	crashed := filepath.Join(t.TempDir(), "crashed")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(s.files.main()+suffix, crashed+suffix); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(crashed+suffix, s.files.main()+suffix); err != nil {
			t.Fatal(err)
		}
	}
	smash(t, s.files.main(), 0, pageSize, 2)
	s, _ = running(t, cfg, Deps{Log: testLog(t)})
	if st := s.Status(); st.Damaged == "" || st.Writes != 2 || st.Objects != 62 {
		t.Errorf("status %+v: page 1 alone is lost, so all rows can be salvaged", st)
	}
	mustServe(t, s, 60)
}

// whole reports whether no pod can be missing.
func whole(s *Store) bool { return s.isWhole() }

func TestDamagedDatabaseIsSetAsideSalvagedAndRestored(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, s *Store){
		"header":  func(t *testing.T, s *Store) { smash(t, s.files.main(), 0, 100, 1) },
		"page 1":  func(t *testing.T, s *Store) { smash(t, s.files.main(), 0, pageSize, 2) },
		"block 1": func(t *testing.T, s *Store) { smash(t, s.files.main(), 0, 4096, 2) },
		"schema":  smashSchema,
		"cut":     func(t *testing.T, s *Store) { truncate(t, s.files.main(), fileSize(t, s.files.main())/2/4096*4096+77) },
		"emptied": func(t *testing.T, s *Store) { truncate(t, s.files.main(), 0) },
		"removed": func(t *testing.T, s *Store) { remove(t, s.files.main()) },
		"middle": func(t *testing.T, s *Store) {
			size := fileSize(t, s.files.main())
			smash(t, s.files.main(), size/2, size/4, 3)
		},
		"text": func(t *testing.T, s *Store) {
			if err := os.WriteFile(s.files.main(), []byte("this is no database, it is a letter of some length"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			s, stop := running(t, cfg, Deps{})
			fillStore(t, s, 60)
			waitForCopy(t, s)
			// The copy is older than the last versions given out: those of a block that it does not know.
			if err := s.run(t.Context(), func(*conn) error {
				s.w.next = s.w.limit + 1
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodPending))
			_, before, err := s.List(t.Context(), object.Pods, "")
			if err != nil {
				t.Fatal(err)
			}
			id := s.ID()
			stop()
			damage(t, s)
			s, stop = running(t, cfg, Deps{Log: testLog(t)})
			st := s.Status()
			if st.Damaged == "" || st.Restored != "copy" || s.ID() == id {
				t.Errorf("status %+v, expected a restored copy with a name of its own", st)
			}
			wantAll := name == "header" || name == "page 1" || name == "schema"
			if whole(s) != wantAll {
				t.Errorf("after %d rows were salvaged the store says that no pod is missing: %t", st.Objects, whole(s))
			}
			if (wantAll || name == "block 1") && (st.Writes != 2 || st.Objects != 62) {
				t.Errorf("status %+v: the beginning alone is lost, so all rows can be salvaged", st)
			}
			if name != "removed" && !exists(st.SetAside) {
				t.Errorf("the damaged file is not at %q", st.SetAside)
			}
			_, after, err := s.List(t.Context(), object.Pods, "")
			if err != nil || after <= before {
				t.Errorf("local resourceVersion %d after %d, %v", after, before, err)
			}
			mustServe(t, s, 60)
			s.mustBeAbsent(t, podKey("dead"))
			if q := fmt.Sprint(ids(s.queue(t))); !contains(q, "pods/shop/dead 2 u2") {
				t.Errorf("queue %s: the delete of the tombstoned pod is lost", q)
			}
			// What may be missing may still be after a restart, until the cloud has said what there is.
			stop()
			s, stop = running(t, cfg, Deps{Log: testLog(t)})
			if whole(s) != wantAll {
				t.Errorf("after a restart no pod is missing: %t", whole(s))
			}
			s.markAll(t)
			if !whole(s) {
				t.Error("after a sync pods may be missing")
			}
			stop()
			if s, _ = running(t, cfg, Deps{Log: testLog(t)}); !whole(s) {
				t.Error("after a sync and a restart pods may be missing")
			}
		})
	}
}

// A flipped bit inside a body leaves SQLite's structure intact: only the checksum shows it.
func TestFlippedBitInABodyIsFoundAndMended(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 20)
	waitForCopy(t, s)
	stop()
	body, err := os.ReadFile(s.files.main())
	if err != nil {
		t.Fatal(err)
	}
	i := indexOf(body, fmt.Sprintf("%01000d", 7))
	body[i+500] ^= 4
	if err := os.WriteFile(s.files.main(), body, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = running(t, cfg, Deps{})
	if st := s.Status(); st.Restored != "copy" || st.Writes != 2 {
		t.Fatalf("status %+v, expected all but one row salvaged", st)
	}
	got := decode[*corev1.ConfigMap](t, object.ConfigMaps, s.mustGet(t, cmKey("c7")).Body)
	if got.Data["k"] != fmt.Sprintf("%01000d", 7) {
		t.Error("the flipped bit is served")
	}
	mustServe(t, s, 20)
}

// Without a copy the objects are salvaged if all of them can be read; else the store counts as never synced.
func TestWithoutACopyOnlyWhatIsWholeCountsAsSynced(t *testing.T) {
	for name, whole := range map[string]bool{"whole": true, "torn": false} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			s, stop := running(t, cfg, Deps{})
			fillStore(t, s, 60)
			waitForCopy(t, s)
			stop()
			remove(t, s.files.copy())
			if whole {
				s.files.suspect(s.log)
			} else {
				smash(t, s.files.main(), fileSize(t, s.files.main())/2, 8192, 5)
			}
			s, _ = running(t, cfg, Deps{})
			if s.EverSynced() != whole {
				t.Fatalf("synced: %v, status %+v", s.EverSynced(), s.Status())
			}
			if q := s.queue(t); whole && len(q) != 2 {
				t.Fatalf("queue %v", ids(q))
			}
			if exists(s.files.mark()) {
				t.Error("the mark is still there: the next start would repair again")
			}
		})
	}
}

// Whatever block of the flash is hit, with all the pages on it, the store opens, serves only what was written, and works.
func TestAnyPageMayBeDamaged(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 40)
	waitForCopy(t, s)
	for i := range 30 {
		if err := s.enqueue(t, event(fmt.Sprint("e", i), 500)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	master := t.TempDir()
	if err := os.CopyFS(filepath.Join(master, "m"), os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	const block = 4096
	blocks := fileSize(t, s.files.main()) / block
	salvaged := 0
	for i := range blocks {
		cfg := testConfig(filepath.Join(t.TempDir(), "s"))
		if err := os.CopyFS(cfg.Dir, os.DirFS(filepath.Join(master, "m"))); err != nil {
			t.Fatal(err)
		}
		smash(t, filepath.Join(cfg.Dir, "tether.db"), i*block, block, uint64(i))
		s, stop := running(t, cfg, Deps{})
		mustServe(t, s, 40)
		salvaged += len(s.queue(t))
		stop()
	}
	// One block holds a few of the 32 writes; the rest must survive it.
	if mean := float64(salvaged) / float64(blocks); mean < 25 {
		t.Errorf("%.1f of 32 writes were salvaged on average over %d blocks", mean, blocks)
	}
}

// SQLite drops the damaged end of a log without a word, and with it perhaps the last reservation of versions.
func TestVersionsDoNotRepeatThoughTheLogWasDamaged(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 40)
	waitForCopy(t, s) // else the next run makes it while its files are being copied
	stop()
	s, stop = running(t, cfg, Deps{})
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("new", "u", 50, "x")))
	_, before, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	// What a power cut leaves: the files as they are, unclosed.
	cut := testConfig(filepath.Join(t.TempDir(), "s"))
	if err := os.CopyFS(cut.Dir, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	stop()
	wal := filepath.Join(cut.Dir, "tether.db-wal")
	smash(t, wal, 32, fileSize(t, wal)-32, 9)
	s, _ = running(t, cut, Deps{})
	s.mustBeAbsent(t, cmKey("new"))
	if _, after, err := s.List(t.Context(), object.ConfigMaps, ""); err != nil || after <= before {
		t.Errorf("local resourceVersion %d after %d, %v", after, before, err)
	}
	mustServe(t, s, 40)
}

// A repair that is cut short anywhere is finished at the next start.
func TestInterruptedRepairIsFinished(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 10)
	waitForCopy(t, s)
	stop()
	smash(t, s.files.main(), 0, 100, 1)
	scripts, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.rebuild(scripts); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"before the moves", "between the moves"} {
		dir := filepath.Join(t.TempDir(), "s")
		if err := os.CopyFS(dir, os.DirFS(cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		f := files{dir}
		if step == "between the moves" {
			if _, err := f.setAside(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		s, stop := running(t, testConfig(dir), Deps{})
		mustServe(t, s, 10)
		stop()
	}
}

func TestOnlyTheLastDamagedDatabasesAreKept(t *testing.T) {
	cfg := testConfig(t.TempDir())
	for i := range keepAside + 3 {
		s, stop := running(t, cfg, Deps{})
		s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 5)))
		stop()
		smash(t, s.files.main(), 0, 100, uint64(i))
	}
	s, _ := running(t, cfg, Deps{})
	all, err := filepath.Glob(s.files.main() + ".damaged-*")
	if err != nil || len(all) != keepAside {
		t.Errorf("%d kept, expected %d: %v", len(all), keepAside, all)
	}
}

func TestNewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 3)
	stop()
	c, err := openConn(s.files.main(), modeWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.run("PRAGMA user_version = 99"), c.close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(s.files.main())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), cfg, Deps{Log: testLog(t)})
	if !errors.Is(err, ErrNewer) {
		t.Fatalf("got %v, expected ErrNewer", err)
	}
	t.Log(err)
	after, err := os.ReadFile(s.files.main())
	if err != nil || string(before) != string(after) {
		t.Errorf("the file was changed (%v)", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	cfg := testConfig(t.TempDir())
	running(t, cfg, Deps{})
	if s, err := Open(t.Context(), cfg, Deps{Log: testLog(t)}); err == nil {
		t.Fatal("opened twice", s.Close())
	}
}

func TestDamageFoundInUseEndsTheStoreAndIsMendedAtTheNextStart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	fillStore(t, s, 400)
	waitForCopy(t, s)
	stop()

	s, err := Open(t.Context(), cfg, Deps{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	size := fileSize(t, s.files.main())
	smash(t, s.files.main(), 4096*4, size-4096*4, 8)
	for i := range 400 {
		if _, _, err := s.Get(ctx, cmKey(fmt.Sprint("c", i))); err != nil {
			break
		}
	}
	if err := <-done; !errors.Is(err, ErrDamaged) {
		t.Fatalf("start returned %v, expected ErrDamaged", err)
	}
	if err := s.Close(); err != nil {
		t.Log("close:", err)
	}
	s, _ = running(t, cfg, Deps{})
	mustServe(t, s, 400)
}

func TestCopyIsMadeOnceASyncIsCompleteAndOnlyIfSomethingChanged(t *testing.T) {
	clock := &fakeClock{now: time.Now()}
	cfg := testConfig(t.TempDir())
	s, _ := running(t, cfg, Deps{Clock: clock})
	k := s.copies // the store's own, which its upkeep uses too
	refresh := func() time.Time {
		t.Helper()
		if err := k.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.files.copy())
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, "x")))
	if !refresh().IsZero() {
		t.Fatal("a copy of a store that was never synced")
	}
	s.markAll(t)
	waitForCopy(t, s)
	k.mu.Lock()
	k.known, k.seen = false, 0 // as a new process, which learns from the file
	k.mu.Unlock()
	first := refresh()
	clock.add(2 * time.Hour)
	if refresh() != first {
		t.Error("refreshed though nothing changed")
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 6, "y")))
	second := refresh()
	if second == first {
		t.Fatal("not refreshed after a change")
	}
	s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 7, "z")))
	clock.add(time.Minute)
	if refresh() != second {
		t.Error("refreshed within the interval")
	}
	clock.add(time.Hour)
	third := refresh()
	if third == second {
		t.Error("not refreshed after the interval")
	}
	// A pod that the copy lacks is what a kubelet that starts on the copy ends.
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 8)))
	clock.add(podsInterval / 2)
	if refresh() != third {
		t.Error("refreshed within the least interval")
	}
	clock.add(podsInterval / 2)
	fourth := refresh()
	if fourth == third {
		t.Error("not refreshed though a pod came")
	}
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	clock.add(2 * podsInterval)
	if refresh() != fourth {
		t.Error("refreshed early for a pod's status")
	}
	s.mustBatch(t, gone(podKey("a"), object.CauseDeleted))
	if refresh() == fourth {
		t.Error("not refreshed though a pod went")
	}
}

func truncate(t testing.TB, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit in the head of a row makes a flag a number, or moves the columns: SQLite finds no fault in it.
func TestARowThatIsNoneOfOursIsMendedAtOpen(t *testing.T) {
	for name, change := range map[string]string{
		"a flag that is neither":   "UPDATE objects SET tombstone = 32 WHERE name = 'c3'",
		"a seal that nobody made":  "UPDATE objects SET key_id = 1 WHERE name = 'c3'",
		"an unknown class":         "UPDATE outbox SET class = 99",
		"a version beyond all":     "UPDATE meta SET value = '18446744073709551615' WHERE name = 'rv_block'",
		"a sealed token":           "INSERT INTO tokens (key, pod_uid, expires, key_id, sum, body) VALUES ('k', 'u1', 5, 7, 0, x'00')",
		"a note that was changed":  "INSERT INTO notes (bucket, key, key_id, sum, body) VALUES ('b', 'k', 0, 7, x'00')",
		"a token without its body": "INSERT INTO tokens (key, pod_uid, expires, key_id, sum, body) VALUES ('k', 'u1', 5, 0, 0, x'')",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			s, stop := running(t, cfg, Deps{})
			fillStore(t, s, 10)
			waitForCopy(t, s)
			stop()
			c, err := openConn(s.files.main(), modeWrite)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.run(change), c.close()); err != nil {
				t.Fatal(err)
			}
			s, _ = running(t, cfg, Deps{})
			if st := s.Status(); st.Damaged == "" || st.Restored != "copy" {
				t.Errorf("status %+v, expected a restored copy", st)
			}
			mustServe(t, s, 10)
		})
	}
}
