package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A flash is a block device of its own with ext4, as a gateway has one.
type flash struct {
	image  string
	dir    string
	device string // loop7
}

// newFlash makes one of so many MiB.
func newFlash(t *testing.T, mib int64) *flash {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	flash := &flash{image: image, dir: dir}
	flash.mount(t)
	t.Cleanup(func() {
		// Detached, so that it goes even if something still has a file open.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return flash
}

func (f *flash) mount(t *testing.T) {
	t.Helper()
	command(t, "mount", "-o", "loop", f.image, f.dir)
	f.device = filepath.Base(strings.TrimSpace(command(t, "findmnt", "-n", "-o", "SOURCE", f.dir)))
}

// losePower ends the file system as a power cut does: what was not synced is gone.
func (f *flash) losePower(t *testing.T) {
	t.Helper()
	dir, err := os.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	// EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h); the flag says that nothing more is written, not even the journal.
	const shutdown, noLogFlush = 0x8004587d, 2
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush); err != nil {
		t.Fatal(err)
	}
}

// boot mounts it again, after nothing has a file open there any more.
func (f *flash) boot(t *testing.T) {
	t.Helper()
	if err := unix.Unmount(f.dir, 0); err != nil {
		t.Fatal(err)
	}
	f.mount(t) // replays the journal
}

func command(t *testing.T, argv ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s (these tests run as root): %v: %s", strings.Join(argv, " "), err, stderr.String())
	}
	return string(out)
}

// wear writes out what waits for the device and returns how many bytes it has written since it was made.
func (f *flash) wear(t *testing.T) int64 {
	t.Helper()
	dir, err := os.Open(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/sys/block/" + f.device + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	// The seventh field is sectors written, of 512 bytes whatever the device's are (Documentation/block/stat.rst).
	var fields [7]int64
	for i := range fields {
		word := strings.Fields(string(text))[i]
		if _, err := fmt.Sscan(word, &fields[i]); err != nil {
			t.Fatal(err)
		}
	}
	return fields[6] * 512
}
