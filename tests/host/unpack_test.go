package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAPackageIsUnpackedOnceAndNotInstalled: a program of a package runs from a folder, and is not got again.
func TestAPackageIsUnpackedOnceAndNotInstalled(t *testing.T) {
	dir := t.TempDir()
	_, before := os.Stat("/usr/bin/hello")
	path, err := Unpack(t.Context(), "hello", "usr/bin/hello", dir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Hello") {
		t.Errorf("%s: %v: %s", path, err, out)
	}
	if _, after := os.Stat("/usr/bin/hello"); after == nil && before != nil {
		t.Error("the package is installed")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v: expected the package alone", left, err)
	}
	mark := filepath.Join(dir, "hello", "mark")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := Unpack(t.Context(), "hello", "usr/bin/hello", dir); err != nil || again != path {
		t.Errorf("the second time: %q, %v", again, err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("it was unpacked again: %v", err)
	}
	if _, err := Unpack(t.Context(), "hello", "usr/bin/nothing", dir); err == nil || !strings.Contains(err.Error(), "no program") {
		t.Errorf("a program that the package has not: %v", err)
	}
}
