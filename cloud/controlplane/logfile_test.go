package controlplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogIsBoundedAndKeepsOneGeneration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	l, err := openLogFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	chunk := []byte(strings.Repeat("x", 1<<20-1) + "\n")
	for range 40 {
		l.Write(chunk)
	}
	var total int64
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if len(entries) != 2 || total > 2*logFileLimit || total < logFileLimit {
		t.Errorf("%d files of %d bytes, expected 2 files of %d to %d bytes", len(entries), total, logFileLimit, 2*logFileLimit)
	}
}

// A component whose standard error breaks dies of it.
func TestLogThatCannotBeWrittenIsNoErrorAndIsToldLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := openLogFile(filepath.Join(dir, "x.log"))
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Write([]byte("lost\n")); n != 5 || err != nil {
		t.Errorf("Write returned %d, %v", n, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Write([]byte("kept\n"))
	l.close()
	body, err := os.ReadFile(filepath.Join(dir, "x.log"))
	if err != nil || string(body) != "[5 bytes of log lost: they could not be written]\nkept\n" {
		t.Errorf("log holds %q, %v", body, err)
	}
	if got := l.lastLines(2); got != "lost\nkept" {
		t.Errorf("last lines: %q", got)
	}
}
