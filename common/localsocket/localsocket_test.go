package localsocket

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheSocketIsItsOwnersAloneAndOneProcesss(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "dmi.sock")
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("found %v, %v", info.Mode(), err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "expected nobody to listen") {
		t.Errorf("expected to be told of the other process, found %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as when it is killed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("a socket that nobody listens on is in the way: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "expected no file or a socket") {
		t.Errorf("expected the file to stay, found %v", err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("expected the directory to be refused, found %v", err)
	}
}
