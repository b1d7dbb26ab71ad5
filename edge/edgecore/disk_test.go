package edgecore

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A node that was up once starts on a full disk, with what it has: its kubelet is what makes room (I11).
func TestAFullDiskKeepsNoNodeFromStarting(t *testing.T) {
	cfg := joined(t, "edge-1")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount a tmpfs (this test runs as root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	cfg.DataDir, cfg.Store.FreeSpaceFloor = filepath.Join(dir, "data"), 1<<20
	start := func() {
		t.Helper()
		e, err := New(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, int64(st.Bavail)*st.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "more"), []byte("x"), 0o600); err == nil {
		t.Fatal("the disk is not full: the test proves nothing")
	}
	start()
	for _, file := range []string{"admin.kubeconfig", "pki/kubelet.crt", "pki/kubelet.key"} {
		if b, err := os.ReadFile(filepath.Join(cfg.DataDir, file)); err != nil || len(b) == 0 {
			t.Errorf("%s has %d bytes, %v", file, len(b), err)
		}
	}
}
