package store

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tether-edge/tether/common/object"
)

func (s *Store) notes(t testing.TB, bucket string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := s.Notes(t.Context(), bucket, func(key string, value []byte) error { all[key] = string(value); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func deviceWrite(name, body string) object.Outgoing {
	return object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Namespace: "ns", Name: name}, UID: "u", Op: object.OpPut, Body: []byte(body)}
}

func TestNotesAndTheWritesThatTheyCauseAreKeptTogether(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	if err := s.Keep(t.Context(), []Note{{"twin", "a", []byte("1")}, {"twin", "b", []byte{}}, {"other", "a", []byte("x")}}, deviceWrite("a", "1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), []Note{{"twin", "a", []byte("2")}, {"twin", "b", nil}, {"twin", "c", []byte("3")}}, deviceWrite("a", "2")); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("k", MaxNoteKey+1)
	for what, err := range map[string]error{
		"no bucket":   s.Keep(t.Context(), []Note{{"", "k", nil}}),
		"no key":      s.Keep(t.Context(), []Note{{"twin", "", nil}}),
		"a long key":  s.Keep(t.Context(), []Note{{"twin", long, nil}}),
		"a big value": s.Keep(t.Context(), []Note{{"twin", "k", make([]byte, MaxNoteValue+1)}}),
		// The note before it is not kept either.
		"a bad write": s.Keep(t.Context(), []Note{{"twin", "d", []byte("4")}}, object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Name: "x/y"}, Op: object.OpPut}),
	} {
		if err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	check := func(s *Store) {
		t.Helper()
		if got, want := s.notes(t, "twin"), map[string]string{"a": "2", "c": "3"}; !maps.Equal(got, want) {
			t.Errorf("notes %v, expected %v", got, want)
		}
		if got := s.notes(t, "other"); len(got) != 1 {
			t.Errorf("notes of another bucket: %v", got)
		}
		heads := s.queue(t)
		if len(heads) != 1 {
			t.Fatalf("%d writes wait, expected the newest", len(heads))
		}
		if o, ok, err := s.LoadOutgoing(t.Context(), heads[0].ID); err != nil || !ok || string(o.Body) != "2" {
			t.Errorf("it is %q, %v, %v", o.Body, ok, err)
		}
	}
	check(s)
	stop()
	s, _ = running(t, cfg, Deps{})
	check(s)
}

func TestNotesAreSalvagedFromADamagedDatabase(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{})
	if err := s.Keep(t.Context(), []Note{{"twin", "a", []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	stop()
	c, err := openConn(s.files.main(), modeWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.run("INSERT INTO kinds (kind) VALUES ('x'); INSERT INTO notes (bucket, key, key_id, sum, body) VALUES ('twin', 'b', 0, 7, x'00')"), c.close()); err != nil {
		t.Fatal(err)
	}
	s, _ = running(t, cfg, Deps{})
	if s.Status().Damaged == "" {
		t.Fatal("the damage is not noticed")
	}
	if got := s.notes(t, "twin"); !maps.Equal(got, map[string]string{"a": "1"}) {
		t.Errorf("notes %v, expected the sound one", got)
	}
}

// TestADatabaseOfTheFormerSchemaIsNoDamage: it has no table of notes, and gets one.
func TestADatabaseOfTheFormerSchemaIsNoDamage(t *testing.T) {
	cfg := testConfig(t.TempDir())
	scripts, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := openWriter(filepath.Join(cfg.Dir, "tether.db"))
	if err != nil {
		t.Fatal(err)
	}
	record := object.Record{Key: podKey("sound"), Version: object.Version{UID: "u9", RV: 9}, LocalRV: 9, Body: encode(t, object.Pods, pod("sound", "u9", 9))}
	if err := errors.Join(migrate(c, scripts[:notesSince-1]), ensureIdentity(c), c.put(&record), c.close()); err != nil {
		t.Fatal(err)
	}
	s, _ := running(t, cfg, Deps{})
	if st := s.Status(); st.Damaged != "" {
		t.Fatalf("it counts as damaged: %s", st.Damaged)
	}
	s.mustGet(t, podKey("sound"))
	if err := s.Keep(t.Context(), []Note{{"twin", "a", []byte("1")}}); err != nil {
		t.Error(err)
	}
}
