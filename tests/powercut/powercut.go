package powercut

// #include "vfs.h"
import "C"

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// A Disk is a directory with databases whose power can be cut. Make it with New, before a database in it is opened.
type Disk struct {
	dir string

	// Guarded by shared.mu.
	cut   bool
	files map[string]*file
	syncs int
}

// file is what a Disk holds of one file that SQLite has open.
type file struct {
	disk    *Disk
	path    string
	handles int
	synced  []byte   // as of the last sync
	since   []change // in order
}

// A change is a write at an offset, or a truncation where data is nil.
type change struct {
	at   int64
	data []byte
}

func (c change) apply(to []byte) []byte {
	end := c.at + int64(len(c.data))
	if n := int64(len(to)); end > n {
		to = append(to, make([]byte, end-n)...)
	}
	if c.data == nil {
		return to[:c.at]
	}
	copy(to[c.at:], c.data)
	return to
}

// shared is what the VFS, of which a process has one, asks.
var shared = struct {
	mu      sync.Mutex // guards all below, and all disks; Cut holds it, so that it falls between two calls of SQLite
	disks   map[string]*Disk
	handles map[int64]*file
	next    int64
}{disks: map[string]*Disk{}, handles: map[int64]*file{}}

// New makes the databases that are opened in dir from now on lie on a Disk. It fails where the program has no SQLite.
func New(dir string) (*Disk, error) {
	if code := C.powercutRegister(); code != 0 {
		return nil, fmt.Errorf("register a VFS: expected a program with SQLite, found code %d", int(code))
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("a disk at %s: %w", dir, err)
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	d := &Disk{dir: dir, files: map[string]*file{}}
	shared.disks[dir] = d
	return d, nil
}

// Syncs counts the syncs that databases asked for.
func (d *Disk) Syncs() int {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return d.syncs
}

// Cut takes the power away. From this moment every write fails, and what the disk holds then is written into a new directory:
// of each database what was synced, and of its writes since then those for which keep returns true, applied in their order.
// Other files are there as they are. The directory of the Disk is of no use any more.
func (d *Disk) Cut(into string, keep func() bool) error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	d.cut = true
	if err := os.MkdirAll(into, 0o700); err != nil {
		return fmt.Errorf("cut the power of %s: %w", d.dir, err)
	}
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[path]
		image := slices.Clone(f.synced)
		for _, c := range f.since {
			if keep() {
				image = c.apply(image)
			}
		}
		errs = append(errs, os.WriteFile(filepath.Join(into, filepath.Base(path)), image, 0o600))
	}
	entries, err := os.ReadDir(d.dir)
	errs = append(errs, err)
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		if d.files[path] != nil || e.IsDir() || strings.HasSuffix(path, "-shm") { // the index of a log is memory
			continue
		}
		data, err := os.ReadFile(path)
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, os.WriteFile(filepath.Join(into, e.Name()), data, 0o600))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cut the power of %s: %w", d.dir, err)
	}
	return nil
}

// Forget ends the Disk, once its databases are closed.
func (d *Disk) Forget() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	delete(shared.disks, d.dir)
}

// powercutOpened returns a number for a file that is opened, 0 for one that is no Disk's. What lies there counts as synced: the last
// connection that closes a database has moved the log into it.
//
//export powercutOpened
func powercutOpened(name *C.char) C.sqlite3_int64 {
	path := C.GoString(name)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	d := shared.disks[filepath.Dir(path)]
	if d == nil {
		return 0
	}
	f := d.files[path]
	if f == nil {
		data, err := os.ReadFile(path)
		if err != nil {
			data = nil // not made yet
		}
		f = &file{disk: d, path: path, synced: data}
		d.files[path] = f
	}
	f.handles++
	shared.next++
	shared.handles[shared.next] = f
	return C.sqlite3_int64(shared.next)
}

//export powercutClosed
func powercutClosed(id C.sqlite3_int64) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	f := shared.handles[int64(id)]
	if f == nil {
		return
	}
	delete(shared.handles, int64(id))
	if f.handles--; f.handles == 0 && f.disk.files[f.path] == f && !f.disk.cut {
		delete(f.disk.files, f.path)
	}
}

// on does something to an open file, unless its disk is without power; it returns 0 then.
func on(id C.sqlite3_int64, do func(*file)) C.int {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	f := shared.handles[int64(id)]
	if f == nil {
		return 1
	}
	if f.disk.cut {
		return 0
	}
	do(f)
	return 1
}

//export powercutWrite
func powercutWrite(id C.sqlite3_int64, data unsafe.Pointer, n C.int, at C.sqlite3_int64) C.int {
	return on(id, func(f *file) { f.since = append(f.since, change{int64(at), C.GoBytes(data, n)}) })
}

//export powercutTruncate
func powercutTruncate(id, size C.sqlite3_int64) C.int {
	return on(id, func(f *file) { f.since = append(f.since, change{at: int64(size)}) })
}

//export powercutSync
func powercutSync(id C.sqlite3_int64) C.int {
	return on(id, func(f *file) {
		for _, c := range f.since {
			f.synced = c.apply(f.synced)
		}
		f.since = nil
		f.disk.syncs++
	})
}

//export powercutDelete
func powercutDelete(name *C.char) C.int {
	path := C.GoString(name)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	d := shared.disks[filepath.Dir(path)]
	if d == nil {
		return 1
	}
	if d.cut {
		return 0
	}
	delete(d.files, path)
	return 1
}
