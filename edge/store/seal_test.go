package store

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// planted is what no file may show: it is part of every secret of these tests.
const planted = "planted-Zq7fWv3kXr"

// A fakeSealer seals with keys that its ids tell, so that another process has the same.
type fakeSealer struct {
	ids  []int64
	kept []int64
}

func sealer(ids ...int64) *fakeSealer { return &fakeSealer{ids: ids} }

func (f *fakeSealer) open(context.Context) (Sealer, error) { return f, nil }

func (f *fakeSealer) aead(id int64) cipher.AEAD {
	key := sha256.Sum256(fmt.Appendf(nil, "key %d", id))
	a, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err)
	}
	return a
}

func (f *fakeSealer) Seal(plain, context []byte) (int64, []byte) {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return f.ids[0], f.aead(f.ids[0]).Seal(nonce, nonce, plain, context)
}

func (f *fakeSealer) Unseal(id int64, sealed, context []byte) ([]byte, error) {
	if !slices.Contains(f.ids, id) || len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errors.New("no such key")
	}
	return f.aead(id).Open([]byte{}, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], context)
}

func (f *fakeSealer) Keys() []int64 { return f.ids }

func (f *fakeSealer) Keep(ids []int64) error {
	f.kept = slices.Clone(ids)
	return nil
}

func secret(name string, rv uint64, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: meta("shop", name, "u-"+name, rv), Data: map[string][]byte{"password": []byte(value)}}
}

func secretKey(name string) object.Key {
	return object.Key{Kind: object.Secrets, Namespace: "shop", Name: name}
}

func (s *Store) password(t testing.TB, name string) string {
	t.Helper()
	r := s.mustGet(t, secretKey(name))
	if r.Sealed {
		t.Fatalf("Secret %s cannot be opened", name)
	}
	return string(decode[*corev1.Secret](t, object.Secrets, r.Body).Data["password"])
}

// mustHide fails if any file below dir shows a planted secret.
func mustHide(t testing.TB, dir string) {
	t.Helper()
	for path, body := range contents(t, dir) {
		if i := bytes.Index(body, []byte(planted)); i >= 0 {
			t.Errorf("%s shows a secret at byte %d of %d", filepath.Base(path), i, len(body))
		}
	}
}

func contents(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out[path], err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // a copy in the making that was finished meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// powerCut copies the files of a running store to another directory, as they are.
func powerCut(t testing.TB, s *Store) (dir string) {
	t.Helper()
	dir = t.TempDir()
	// Between two transactions, or the log and the database would be of different moments.
	if err := s.run(t.Context(), func(*conn) error {
		var errs []error
		for path, body := range contents(t, s.cfg.Dir) {
			errs = append(errs, os.WriteFile(filepath.Join(dir, filepath.Base(path)), body, 0o600))
		}
		return errors.Join(errs...)
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// plant stores secrets of every kind that the store seals, in the forms in which they come, and lets some go again.
func plant(t testing.TB, s *Store) {
	t.Helper()
	fillStore(t, s, 5)
	for i := range 12 {
		s.mustBatch(t, upsert(t, object.Secrets, secret(fmt.Sprint("s", i), uint64(20+i), fmt.Sprintf("%s-%0900d", planted, i))))
	}
	s.mustBatch(t, upsert(t, object.Secrets, secret("cred", 40, planted+"-first")), upsert(t, object.Secrets, secret("pull", 41, planted+"-pull")))
	s.mustBatch(t, upsert(t, object.Secrets, secret("cred", 42, planted+"-second")), gone(secretKey("s3"), object.CauseDeleted), gone(secretKey("pull"), object.CauseNodeGone))
	for key, uid := range map[string]string{"k": "u1", "free": "", "other": "u1"} {
		if err := s.SaveToken(t.Context(), key, uid, []byte(planted+"-token-"+key), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// copyNow makes the second copy of what is there now; that of the first sync may be older.
func copyNow(t testing.TB, s *Store) {
	t.Helper()
	waitForCopy(t, s)
	s.copies.mu.Lock()
	defer s.copies.mu.Unlock()
	if err := s.copyTo(s.files.copy()); err != nil {
		t.Fatal(err)
	}
}

func mustHavePlanted(t testing.TB, s *Store) {
	t.Helper()
	if st := s.Status(); st.Unreadable != 0 {
		t.Errorf("status %+v: rows cannot be opened", st)
	}
	if got := s.password(t, "cred"); got != planted+"-second" {
		t.Errorf("Secret cred is %q", got)
	}
	if got := s.password(t, "pull"); got != planted+"-pull" {
		t.Errorf("the held Secret is %q", got)
	}
	if body, _, ok, err := s.LoadToken(t.Context(), "k"); err != nil || !ok || string(body) != planted+"-token-k" {
		t.Errorf("the token is %q, %v, %v", body, ok, err)
	}
}

// Whatever happens to the database, no file of it shows a Secret or a token, and all can be read through the store.
func TestNoFileShowsASecret(t *testing.T) {
	cfg := testConfig(t.TempDir())
	deps := Deps{Seal: sealer(1).open}
	s, stop := running(t, cfg, deps)
	plant(t, s)
	mustHide(t, cfg.Dir)
	copyNow(t, s)
	mustHide(t, cfg.Dir)
	mustHavePlanted(t, s)
	cut := powerCut(t, s)
	stop()
	mustHide(t, cfg.Dir)

	after, stopAfter := running(t, testConfig(cut), deps)
	mustHavePlanted(t, after)
	stopAfter()
	mustHide(t, cut)

	// Page 1 lost: everything is salvaged. The middle lost: some of it comes from the copy.
	size := fileSize(t, s.files.main())
	for seed, part := range [][2]int64{{0, pageSize}, {size / 2, size / 4}} {
		smash(t, s.files.main(), part[0], part[1], uint64(seed))
		s, stop = running(t, cfg, deps)
		if st := s.Status(); st.Damaged == "" || !exists(st.SetAside) {
			t.Fatalf("status %+v, expected a repair with the damaged database set aside", st)
		}
		mustHavePlanted(t, s)
		mustHide(t, cfg.Dir)
		stop()
		mustHide(t, cfg.Dir)
	}
	for path, body := range contents(t, cfg.Dir) {
		if path == s.files.main() && !contains(string(body), fmt.Sprintf("%01000d", 3)) {
			t.Error("a ConfigMap cannot be read in the database: the test looks at the wrong files")
		}
	}
}

// unpack lays out what a version that did not seal left when it was killed: everything in the log, and a second copy.
func unpack(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"tether.db", "tether.db-wal", "tether.db.copy"} {
		packed, err := os.Open(filepath.Join("testdata", "plain", name+".gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer packed.Close()
		r, err := gzip.NewReader(packed)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if name != "tether.db" && !bytes.Contains(body, []byte(planted)) {
			t.Fatalf("%s of the former version shows no secret: the test proves nothing", name)
		}
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An upgrade leaves nothing that the former version wrote plain: not in the log, in free pages, in the copy, or in a
// database that was set aside.
func TestAnUpgradeLeavesNothingPlain(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"killed": func(*testing.T, string) {},
		"with a database set aside": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "tether.db.damaged-20260101T000000.000Z"), []byte(planted), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func(t *testing.T, dir string) { smash(t, filepath.Join(dir, "tether.db-wal"), 40_000, 3000, 1) },
		"lost": func(t *testing.T, dir string) {
			if err := removeDatabase(filepath.Join(dir, "tether.db")); err != nil {
				t.Fatal(err)
			}
		},
		"copy damaged": func(t *testing.T, dir string) { smash(t, filepath.Join(dir, "tether.db.copy"), 8192, 4096, 1) },
		"moved without sealing yet": func(t *testing.T, dir string) { // free pages and moved rows
			s, stop := running(t, testConfig(dir), Deps{})
			for i := range 8 {
				s.mustBatch(t, upsert(t, object.Secrets, secret(fmt.Sprint("s", i), uint64(100+i), planted+fmt.Sprintf("%0300d", i))))
			}
			stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			unpack(t, cfg.Dir)
			prepare(t, cfg.Dir)
			s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
			mustHide(t, cfg.Dir)
			s.mustGet(t, podKey("a"))
			if name != "damaged" {
				if got := s.password(t, "cred"); got != planted+"-secret" {
					t.Errorf("Secret cred is %q", got)
				}
				if body, _, ok, err := s.LoadToken(t.Context(), "k"); err != nil || !ok || string(body) != planted+"-token" {
					t.Errorf("the token is %q, %v, %v", body, ok, err)
				}
			}
			stop()
			mustHide(t, cfg.Dir)
			s, stop = running(t, cfg, Deps{Seal: sealer(1).open})
			if st := s.Status(); st.Damaged != "" {
				t.Errorf("status %+v after the upgrade", st)
			}
			stop()
		})
	}
}

// Without room for a second database the node comes up all the same, with its rows sealed, and the next start does the rest.
func TestAnUpgradeOnADiskThatIsNearlyFullIsFinishedLater(t *testing.T) {
	cfg := testConfig(t.TempDir())
	unpack(t, cfg.Dir)
	cfg.FreeSpaceFloor = 1 << 60
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	if got := s.password(t, "cred"); got != planted+"-secret" {
		t.Errorf("Secret cred is %q", got)
	}
	if err := s.run(t.Context(), func(c *conn) error {
		if n, err := c.number("SELECT count(*) FROM objects WHERE kind = 'secrets' AND key_id = 0"); err != nil || n != 0 {
			t.Errorf("%d rows are plain, %v", n, err)
		}
		if done, err := c.meta(metaSealed); err != nil || done != "" {
			t.Errorf("the database says that it is free of plain ones: %q, %v", done, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	stop()
	cfg.FreeSpaceFloor = 0
	_, stop = running(t, cfg, Deps{Seal: sealer(1).open})
	stop()
	mustHide(t, cfg.Dir)
}

// Sealed bodies that change places, with checksums that are right there, are not what was written.
func TestSealedBodiesThatChangePlacesAreFound(t *testing.T) {
	for name, swap := range map[string]string{
		"Secrets": "UPDATE objects SET body = (SELECT o.body FROM objects AS o WHERE o.kind = 'secrets' AND o.name = 's1'), uid = uid WHERE kind = 'secrets' AND name = 'cred'",
		"tokens":  "UPDATE tokens SET body = (SELECT t.body FROM tokens AS t WHERE t.key = 'other') WHERE key = 'k'",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			deps := Deps{Seal: sealer(1).open}
			s, stop := running(t, cfg, deps)
			plant(t, s)
			copyNow(t, s)
			stop()
			c, err := openConn(s.files.main(), modeWrite)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.run(swap), sumAgain(c), c.close()); err != nil {
				t.Fatal(err)
			}
			s, _ = running(t, cfg, deps)
			if st := s.Status(); !contains(st.Damaged, errForged.Error()) || st.Restored != "copy" {
				t.Errorf("status %+v, expected the swap to be found", st)
			}
			mustHavePlanted(t, s)
		})
	}
}

// sumAgain gives every row the checksum of what it holds now, as who swaps bodies on purpose would.
func sumAgain(c *conn) error {
	var rows []*row
	if err := c.query(selectAll, nil, func(scan func(...any) error) error {
		var r row
		var rv, local, sum int64
		err := scan(&r.Key.Kind, &r.Key.Namespace, &r.Key.Name, &r.Version.UID, &rv, &local, &r.Origin, &r.Tombstone, &r.Held, &r.keyID, &sum, &r.Body, &r.Base, &r.Overlay)
		r.Version.RV, r.LocalRV = uint64(rv), uint64(local)
		rows = append(rows, &r)
		return err
	}); err != nil {
		return err
	}
	var tokens []*tokenRow
	if err := c.query("SELECT "+tokenColumns+" FROM tokens", nil, func(scan func(...any) error) error {
		var r tokenRow
		tokens = append(tokens, &r)
		return scan(&r.key, &r.podUID, &r.expires, &r.keyID, new(int64), &r.body)
	}); err != nil {
		return err
	}
	var errs []error
	for _, r := range rows {
		errs = append(errs, c.putRow(r))
	}
	for _, r := range tokens {
		errs = append(errs, c.putToken(r))
	}
	return errors.Join(errs...)
}

// A flipped bit in the id of a key is damage, and not a key that is lost.
func TestAKeyIDThatChangedIsDamage(t *testing.T) {
	for _, change := range []string{"UPDATE objects SET key_id = 3 WHERE kind = 'secrets' AND name = 'cred'", "UPDATE tokens SET key_id = 3 WHERE key = 'k'",
		"UPDATE objects SET key_id = 0 WHERE kind = 'secrets' AND name = 'cred'"} {
		cfg := testConfig(t.TempDir())
		s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
		plant(t, s)
		copyNow(t, s)
		stop()
		c, err := openConn(s.files.main(), modeWrite)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.run(change), c.close()); err != nil {
			t.Fatal(err)
		}
		s, stop = running(t, cfg, Deps{Seal: sealer(1).open})
		if st := s.Status(); !contains(st.Damaged, errSum.Error()) || st.Unreadable != 0 {
			t.Errorf("%s: status %+v, expected damage", change, st)
		}
		mustHavePlanted(t, s)
		stop()
	}
}

// A key that only the second copy needs is not forgotten.
func TestAKeyOfTheCopyIsKept(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	plant(t, s)
	copyNow(t, s)
	stop()
	c, err := openConn(s.files.main(), modeWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.run("DELETE FROM objects WHERE kind = 'secrets'; DELETE FROM tokens"), c.close()); err != nil {
		t.Fatal(err)
	}
	keys := sealer(2)
	_, stop = running(t, cfg, Deps{Seal: keys.open})
	stop()
	if !slices.Contains(keys.kept, 1) {
		t.Errorf("keys in use %v, expected that of the copy", keys.kept)
	}
}

// A row that is sealed is salvaged as it is, also while its key is not there.
func TestSealedRowsAreSalvagedWithoutTheirKey(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	plant(t, s)
	stop()
	if err := removeDatabase(s.files.copy()); err != nil {
		t.Fatal(err)
	}
	smash(t, s.files.main(), 0, 100, 1)
	s, stop = running(t, cfg, Deps{Seal: sealer(2).open})
	if st := s.Status(); st.Restored != "salvage" || st.Unreadable != 16 {
		t.Errorf("status %+v, expected all rows salvaged", st)
	}
	if st := s.Status(); st.SetAside == "" || !exists(st.SetAside) {
		t.Errorf("status %+v, expected that what is sealed stays set aside for a person to look at", st)
	}
	stop()
	s, _ = running(t, cfg, Deps{Seal: sealer(2, 1).open})
	mustHavePlanted(t, s)
}

// With a new key everything is sealed again at the next start, in the copy too, and the former key is not needed any more.
func TestANewKeySealsEverythingAgain(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	plant(t, s)
	copyNow(t, s)
	stop()
	keys := sealer(2, 1)
	s, stop = running(t, cfg, Deps{Seal: keys.open})
	mustHavePlanted(t, s)
	stop()
	if slices.Contains(keys.kept, 1) {
		t.Errorf("keys in use %v, expected the new one alone", keys.kept)
	}
	if err := removeDatabase(s.files.main()); err != nil {
		t.Fatal(err)
	}
	s, _ = running(t, cfg, Deps{Seal: sealer(2).open})
	if st := s.Status(); st.Restored != "copy" || st.Unreadable != 0 {
		t.Errorf("status %+v, expected a copy that the new key opens", st)
	}
	mustHavePlanted(t, s)
}

// The outbox is not sealed: no Secret gets into it. Its numbers go on though an upgrade makes the database anew.
func TestTheOutboxHoldsNoSecretAndNumbersGoOnAfterAnUpgrade(t *testing.T) {
	cfg := testConfig(t.TempDir())
	unpack(t, cfg.Dir)
	s, stop := running(t, cfg, Deps{})
	r := s.mustGet(t, podKey("a"))
	s.mustApply(t, withStatus(t, r, corev1.PodFailed))
	last := s.queue(t)[0].ID
	if err := s.Drop(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	id := s.ID()
	stop()
	s, _ = running(t, cfg, Deps{Seal: sealer(1).open})
	s.mustApply(t, withStatus(t, s.mustGet(t, podKey("a")), corev1.PodRunning))
	if q := s.queue(t); len(q) != 1 || q[0].ID <= last || s.ID() != id {
		t.Errorf("queue %+v in the database %s, expected a number above %d in %s", q, s.ID(), last, id)
	}
	_, err := s.Apply(t.Context(), object.Change{Outgoing: []object.Outgoing{{Key: secretKey("cred"), Op: object.OpOverlay, Body: []byte(planted)}}})
	if err == nil || !contains(err.Error(), "Secrets") {
		t.Errorf("a queued write of a Secret: %v, expected that it is refused", err)
	}
}

func TestTokensAreListedByTheirEnd(t *testing.T) {
	s, _ := running(t, testConfig(t.TempDir()), Deps{Seal: sealer(1).open})
	for i, key := range []string{"third", "first", "second"} {
		if err := s.SaveToken(t.Context(), key, "", []byte("x"), time.Now().Add(time.Duration((i+2)%3+1)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := s.TokenKeys(t.Context()); err != nil || !slices.Equal(keys, []string{"first", "second", "third"}) {
		t.Errorf("tokens %q, %v", keys, err)
	}
}

// What ends first counts, for each pod; what cannot be opened serves nobody, and a token of no pod is nobody's here.
func TestTheEndsOfPodsTokensAreKnown(t *testing.T) {
	dir := t.TempDir()
	s, stop := running(t, testConfig(dir), Deps{Seal: sealer(1).open})
	at := time.UnixMilli(1_900_000_000_000)
	// Tokens of pods that are not here are swept.
	s.mustBatch(t, upsert(t, object.Pods, pod("one", "a", 50)), upsert(t, object.Pods, pod("two", "b", 51)))
	for key, pod := range map[string]string{"a1": "a", "a2": "a", "b1": "b", "n1": ""} {
		after := time.Hour
		if key == "a2" {
			after = time.Minute
		}
		if err := s.SaveToken(t.Context(), key, pod, []byte("x"), at.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := s.TokenEnds(t.Context())
	if err != nil || len(ends) != 2 || !ends["a"].Equal(at.Add(time.Minute)) || !ends["b"].Equal(at.Add(time.Hour)) {
		t.Errorf("tokens end at %v, %v", ends, err)
	}
	stop()
	s, _ = running(t, testConfig(dir), Deps{Seal: sealer(2).open})
	if ends, err = s.TokenEnds(t.Context()); err != nil || len(ends) != 0 {
		t.Errorf("with another key: %v, %v", ends, err)
	}
}

// The checksum of a sealed row says nothing of what is in it, and the row of a plain one is what it always was.
func TestTheSameSecretLooksDifferentEachTime(t *testing.T) {
	s, _ := running(t, testConfig(t.TempDir()), Deps{Seal: sealer(1).open})
	s.mustBatch(t, upsert(t, object.Secrets, secret("cred", 42, planted)))
	x := s.sealing
	r := s.mustGet(t, secretKey("cred"))
	a, b := x.seal(r), x.seal(r)
	if bytes.Equal(a.Body, b.Body) || sumRow(a) == sumRow(b) {
		t.Error("the same body is sealed to the same bytes twice")
	}
}
