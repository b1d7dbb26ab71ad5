package controlplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestForeignDirectoryIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := openDataDir(t.Context(), dir, time.Now())
	if err == nil || !strings.Contains(err.Error(), `is not ours`) || !strings.Contains(err.Error(), "thesis.txt") {
		t.Fatalf("expected a refusal that names the file, got: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory was changed: %v", entries)
	}
}

func TestDirectoryIsOursAfterRestartAndAfterAStartCutShort(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{lockName, tempPrefix + "x"} { // all that a crash before the marker leaves
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		d, err := openDataDir(t.Context(), dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		d.close()
	}
}

func TestDirectoryInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	d, err := openDataDir(t.Context(), dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := openDataDir(t.Context(), dir, time.Now()); err == nil || !strings.Contains(err.Error(), "in use by another control plane (process ") {
		t.Errorf("got: %v", err)
	}
}

func TestDirectoryOfANewerVersionOrWithADamagedMarkerIsRefused(t *testing.T) {
	for body, want := range map[string]string{`{"format":99}`: "newer version (format 99", `{"for`: "is damaged"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, markerName), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openDataDir(t.Context(), dir, time.Now()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected %q, got: %v", body, want, err)
		}
	}
}
