package seal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	body  = []byte("correct horse battery staple")
	place = []byte("objects.body secrets shop/cred")
)

func openRing(t testing.TB, cfg Config) *Ring {
	t.Helper()
	r, err := Open(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustOpen(t testing.TB, r *Ring, id int64, sealed []byte) {
	t.Helper()
	if got, err := r.Unseal(id, sealed, place); err != nil || !bytes.Equal(got, body) {
		t.Errorf("opened %q, %v (status %+v)", got, err, r.Status())
	}
}

func mustLack(t testing.TB, r *Ring, id int64, sealed []byte) {
	t.Helper()
	if _, err := r.Unseal(id, sealed, place); !errors.Is(err, ErrNoKey) {
		t.Errorf("got %v, expected ErrNoKey", err)
	}
	if len(r.Status().Lost) == 0 {
		t.Error("the status does not tell of the lost key")
	}
}

func TestABodyOpensOnlyAsItWasSealed(t *testing.T) {
	r := openRing(t, Config{Dir: t.TempDir()})
	id, sealed := r.Seal(body, place)
	mustOpen(t, r, id, sealed)
	if bytes.Contains(sealed, body) || len(sealed) != len(body)+40 {
		t.Errorf("%d bytes sealed to %d: %q", len(body), len(sealed), sealed)
	}
	if _, again := r.Seal(body, place); bytes.Equal(sealed, again) {
		t.Error("the same body is sealed to the same bytes twice")
	}
	if _, err := r.Unseal(id, sealed, []byte("objects.body secrets shop/other")); !errors.Is(err, ErrForged) {
		t.Errorf("in another place: %v, expected ErrForged", err)
	}
	for i := range sealed {
		other := bytes.Clone(sealed)
		other[i] ^= 1
		if _, err := r.Unseal(id, other, place); !errors.Is(err, ErrForged) {
			t.Fatalf("with byte %d changed: %v, expected ErrForged", i, err)
		}
	}
	for n := range sealed {
		if _, err := r.Unseal(id, sealed[:n], place); !errors.Is(err, ErrForged) {
			t.Fatalf("cut to %d bytes: %v, expected ErrForged", n, err)
		}
	}
	if _, err := r.Unseal(id+1, sealed, place); !errors.Is(err, ErrNoKey) {
		t.Errorf("with an unknown key: %v, expected ErrNoKey", err)
	}
	id, sealed = r.Seal([]byte{}, place)
	if got, err := r.Unseal(id, sealed, place); err != nil || got == nil || len(got) != 0 {
		t.Errorf("an empty body is %v, %v; expected an empty one", got, err)
	}
}

func TestWithoutATPMAndACredentialAKeyFileSealsAndIsSaid(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "seal"), TPM: filepath.Join(t.TempDir(), "tpmrm0")}
	r := openRing(t, cfg)
	if st := r.Status(); st.Source != SourceFile || len(st.PassedOver) != 2 || !strings.Contains(st.PassedOver[0], cfg.TPM) {
		t.Errorf("status %+v, expected a key file, and why no TPM and no credential", st)
	}
	id, sealed := r.Seal(body, place)
	for name, want := range map[string]os.FileMode{".": 0o700, ringName: 0o600, keyFileName: 0o600} {
		info, err := os.Stat(filepath.Join(cfg.Dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has %v, %v; expected %v", name, info.Mode(), err, want)
		}
	}
	key := filepath.Join(cfg.Dir, keyFileName)
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	r = openRing(t, cfg)
	mustOpen(t, r, id, sealed)
	if got := r.Keys(); !slices.Equal(got, []int64{id}) {
		t.Errorf("keys %v, expected the first one still", got)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a key file that others may read is left so: %v, %v", info.Mode(), err)
	}
	for name, change := range map[string]func() error{
		"removed": func() error { return os.Remove(key) },
		"changed": func() error { return os.WriteFile(key, bytes.Repeat([]byte("0"), 65), 0o600) },
		"emptied": func() error { return os.WriteFile(key, nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		r = openRing(t, cfg)
		mustLack(t, r, id, sealed)
		if id, sealed = r.Seal(body, place); slices.Contains(r.Keys()[1:], id) {
			t.Errorf("%s: keys %v", name, r.Keys())
		}
		r = openRing(t, cfg)
		mustOpen(t, r, id, sealed)
	}
}

// A disk that does not give the key file at one start may give it at the next.
func TestAKeyFileThatCannotBeReadIsLeftAlone(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	id, sealed := openRing(t, cfg).Seal(body, place)
	key := filepath.Join(cfg.Dir, keyFileName)
	if err := errors.Join(os.Rename(key, key+".away"), os.Symlink("/proc/self/mem", key)); err != nil { // reading it is an EIO
		t.Fatal(err)
	}
	r := openRing(t, cfg)
	mustLack(t, r, id, sealed)
	if lost := strings.Join(r.Status().Lost, ""); !strings.Contains(lost, "input/output error") {
		t.Errorf("lost: %s, expected that the file cannot be read", lost)
	}
	meanwhile, sealedMeanwhile := r.Seal(body, place)
	mustOpen(t, openRing(t, cfg), meanwhile, sealedMeanwhile)
	if to, err := os.Readlink(key); err != nil || to != "/proc/self/mem" {
		t.Fatalf("the key file was replaced: %q, %v", to, err)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	r = openRing(t, cfg)
	mustOpen(t, r, id, sealed)
	mustOpen(t, r, meanwhile, sealedMeanwhile)

	// A better source takes over, and both files go.
	cfg.Credential = filepath.Join(t.TempDir(), "tether-seal")
	if err := os.WriteFile(cfg.Credential, bytes.Repeat([]byte("a"), minSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openRing(t, cfg).Keep(nil); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(key + "*"); err != nil || !slices.Equal(left, []string{filepath.Join(cfg.Dir, ringName)}) {
		t.Errorf("left is %q, %v", left, err)
	}
}

func TestASystemdCredentialIsBetterThanAKeyFile(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	oldID, old := openRing(t, cfg).Seal(body, place)
	cfg.Credential = filepath.Join(t.TempDir(), "tether-seal")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(cfg.Credential, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("short")
	if st := openRing(t, cfg).Status(); st.Source != SourceFile || !strings.Contains(strings.Join(st.PassedOver, "; "), "expected 32 to 1048576 bytes, found 5") {
		t.Errorf("status %+v, expected the short credential passed over", st)
	}
	write(strings.Repeat("a", 32))
	r := openRing(t, cfg)
	if st := r.Status(); st.Source != SourceCredential {
		t.Errorf("status %+v, expected the credential", st)
	}
	id, sealed := r.Seal(body, place)
	if id == oldID {
		t.Error("the key that a key file sealed goes on")
	}
	mustOpen(t, r, oldID, old)
	r = openRing(t, cfg)
	mustOpen(t, r, oldID, old) // not forgotten by itself
	if err := r.Keep([]int64{id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, keyFileName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key file that seals nothing is still there: %v", err)
	}
	r = openRing(t, cfg)
	mustOpen(t, r, id, sealed)
	if _, err := r.Unseal(oldID, old, place); !errors.Is(err, ErrNoKey) || len(r.Status().Lost) != 0 {
		t.Errorf("a forgotten key: %v, status %+v", err, r.Status())
	}
	write(strings.Repeat("b", 32))
	mustLack(t, openRing(t, cfg), id, sealed)
	// The credential is gone: a key file again, and the former key is kept in case it comes back.
	write(strings.Repeat("a", 32))
	there := cfg.Credential
	cfg.Credential = ""
	r = openRing(t, cfg)
	mustLack(t, r, id, sealed)
	if err := r.Keep([]int64{id}); err != nil {
		t.Fatal(err)
	}
	cfg.Credential = there
	mustOpen(t, openRing(t, cfg), id, sealed)
}

func TestAKeyOfHalfAYearIsFollowedByANewOne(t *testing.T) {
	cfg, now := Config{Dir: t.TempDir()}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	open := func(now time.Time) *Ring {
		t.Helper()
		r, err := Open(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	id, sealed := open(now).Seal(body, place)
	for _, at := range []time.Time{now.Add(180 * 24 * time.Hour), time.Unix(0, 0)} {
		if got := open(at).Keys(); !slices.Equal(got, []int64{id}) {
			t.Errorf("at %v: keys %v, expected %d alone", at, got, id)
		}
	}
	r := open(now.Add(190 * 24 * time.Hour))
	if got := r.Keys(); len(got) != 2 || got[0] == id || got[1] != id {
		t.Errorf("keys %v, expected a new one before %d", got, id)
	}
	mustOpen(t, r, id, sealed)
}

func TestADamagedRingIsSetAsideAndANewerOneLeftAlone(t *testing.T) {
	for name, text := range map[string]string{
		"emptied": "", "noise": "\x00\xff", "of another version": `{"version": 0}`, "an id of 0": `{"version": 1, "keys": [{"id": 0}]}`,
		"an id twice": `{"version": 1, "keys": [{"id": 5}, {"id": 5}]}`,
	} {
		cfg := Config{Dir: t.TempDir()}
		id, sealed := openRing(t, cfg).Seal(body, place)
		path := filepath.Join(cfg.Dir, ringName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := openRing(t, cfg)
		if _, err := r.Unseal(id, sealed, place); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v, expected that the new ring has no key of the former id", name, err)
		}
		if got, err := os.ReadFile(path + ".damaged"); err != nil || string(got) != text {
			t.Errorf("%s: set aside is %q, %v", name, got, err)
		}
	}
	cfg := Config{Dir: t.TempDir()}
	newer := `{"version": 2, "keys": "of another form"}`
	if err := os.WriteFile(filepath.Join(cfg.Dir, ringName), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v, expected that a later version's ring is refused", err)
	}
	if got, err := os.ReadFile(filepath.Join(cfg.Dir, ringName)); err != nil || string(got) != newer {
		t.Errorf("it was changed to %q, %v", got, err)
	}
}

// An entry that a damaged disk or somebody else has put there opens nothing and harms nothing.
func TestWrappedKeysOfAnythingAreLost(t *testing.T) {
	tpm := startTPM(t)
	for _, source := range append(slices.Clone(ranking), "abacus") {
		for _, wrapped := range [][]byte{nil, {0}, {0, 0}, {0xff, 0xff, 1}, bytes.Repeat([]byte{0, 1}, 50), make([]byte, 6), bytes.Repeat([]byte{7}, 200), make([]byte, 104)} {
			cfg := Config{Dir: t.TempDir(), TPM: tpm.socket}
			if err := writeRing(filepath.Join(cfg.Dir, ringName), []entry{{ID: 7, Source: source, Wrapped: wrapped}}); err != nil {
				t.Fatal(err)
			}
			r := openRing(t, cfg)
			if st := r.Status(); len(st.Lost) != 1 || st.Source != SourceTPM || slices.Contains(r.Keys(), 7) {
				t.Errorf("%s, %x: status %+v, keys %v", source, wrapped, st, r.Keys())
			}
		}
	}
}

// A full disk keeps the present key, and no node from starting.
func TestAFullDiskKeepsThePresentKey(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a tmpfs (this test runs as root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	cfg := Config{Dir: filepath.Join(dir, "seal")}
	id, sealed := openRing(t, cfg).Seal(body, place)
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(2 * maxAge) }})
	if err != nil {
		t.Fatal(err)
	}
	mustOpen(t, r, id, sealed)
	if got := r.Keys(); got[0] != id {
		t.Errorf("keys %v, expected that %d goes on", got, id)
	}
}

func BenchmarkSeal(b *testing.B) {
	r := openRing(b, Config{Dir: b.TempDir()})
	for _, n := range []int{256, 4 << 10, 64 << 10} {
		plain := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				r.Seal(plain, place)
			}
		})
		id, sealed := r.Seal(plain, place)
		b.Run(fmt.Sprint("open-", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Unseal(id, sealed, place); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
