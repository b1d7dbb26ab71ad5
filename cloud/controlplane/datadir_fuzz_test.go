package controlplane

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzMarker opens directories whose marker holds anything: one that is taken is of a format that this version knows, one
// that is refused is left as it was, and the error says which file it is about.
func FuzzMarker(f *testing.F) {
	for _, body := range []string{`{"format":1,"created":"2026-01-01T00:00:00Z"}`, `{"format":1}`, `{"format":99}`, `{"format":-1}`, `{"format":1e0}`, `{"format":9223372036854775808}`,
		`{"format":1,"created":"x"}`, `{"FORMAT":1}`, `{"format":1}{"format":99}`, `[1]`, `null`, "\x00", ""} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, markerName)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDataDir(t.Context(), dir, time.Now())
		if after, readErr := os.ReadFile(path); readErr != nil || string(after) != string(body) {
			t.Errorf("the marker %q became %q, %v", body, after, readErr)
		}
		if err == nil {
			d.close()
			var m struct{ Format int }
			if err := json.Unmarshal(body, &m); err != nil || m.Format < 1 || m.Format > dataFormat {
				t.Errorf("the marker %q was taken for format 1 to %d", body, dataFormat)
			}
			return
		}
		if !strings.Contains(err.Error(), dir) || len(err.Error()) > 1000+len(dir) {
			t.Errorf("the marker %.100q: the error has %d bytes, expected a line that names the directory: %.300v", body, len(err.Error()), err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("the marker %q was refused, and the directory holds %v", body, entries)
		}
	})
}
