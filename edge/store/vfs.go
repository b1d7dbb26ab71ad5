package store

// #include "vfs.h"
import "C"

import (
	"fmt"
	"sync"
)

// registerVFS has all SQLite files of this process opened from now on counted, and synced without what a database does not need.
// See vfs.c.
var registerVFS = sync.OnceValue(func() error {
	if code := C.storeRegister(); code != 0 {
		return fmt.Errorf("store: register a VFS: SQLite's code %d", int(code))
	}
	return nil
})

// written returns how many bytes SQLite has written since the process began: into databases and their logs, and into other files,
// which are copies of databases and repaired ones.
func written() (database, others int64) {
	var d, o C.longlong
	C.storeWritten(&d, &o)
	return int64(d), int64(o)
}

func writtenAll() int64 {
	database, others := written()
	return database + others
}
