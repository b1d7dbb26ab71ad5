// A VFS that tells Go of every write, truncation, sync and deletion, and leaves the rest to the one beneath it.

#include "vfs.h"
#include "_cgo_export.h"

enum { OK = 0, IOERR_WRITE = 778, IOERR_FSYNC = 1034, IOERR_TRUNCATE = 1546, IOERR_DELETE = 2570 };

// Weak, since cgo links this package once without SQLite, to look at it.
extern __attribute__((weak)) sqlite3_vfs *sqlite3_vfs_find(const char *);
extern __attribute__((weak)) int sqlite3_vfs_register(sqlite3_vfs *, int);

// A file is followed by the one beneath it.
typedef struct {
	sqlite3_file base;
	sqlite3_int64 id; // what Go calls it, 0 for a file that is no disk's
} file;

#define BELOW(f) ((sqlite3_file *)((file *)(f) + 1))
#define CALL(f, method, ...) BELOW(f)->pMethods->method(BELOW(f), ##__VA_ARGS__)

static int xClose(sqlite3_file *f) {
	powercutClosed(((file *)f)->id);
	return CALL(f, xClose);
}

static int xRead(sqlite3_file *f, void *to, int n, sqlite3_int64 at) { return CALL(f, xRead, to, n, at); }

static int xWrite(sqlite3_file *f, const void *from, int n, sqlite3_int64 at) {
	return powercutWrite(((file *)f)->id, (void *)from, n, at) ? CALL(f, xWrite, from, n, at) : IOERR_WRITE;
}

static int xTruncate(sqlite3_file *f, sqlite3_int64 size) {
	return powercutTruncate(((file *)f)->id, size) ? CALL(f, xTruncate, size) : IOERR_TRUNCATE;
}

// The disk is Go's: nothing is gained by waiting for the real one.
static int xSync(sqlite3_file *f, int flags) { return powercutSync(((file *)f)->id) ? OK : IOERR_FSYNC; }

static int xFileSize(sqlite3_file *f, sqlite3_int64 *size) { return CALL(f, xFileSize, size); }
static int xLock(sqlite3_file *f, int level) { return CALL(f, xLock, level); }
static int xUnlock(sqlite3_file *f, int level) { return CALL(f, xUnlock, level); }
static int xCheckReservedLock(sqlite3_file *f, int *out) { return CALL(f, xCheckReservedLock, out); }
static int xFileControl(sqlite3_file *f, int op, void *arg) { return CALL(f, xFileControl, op, arg); }
static int xSectorSize(sqlite3_file *f) { return CALL(f, xSectorSize); }
static int xDeviceCharacteristics(sqlite3_file *f) { return CALL(f, xDeviceCharacteristics); }
static int xShmMap(sqlite3_file *f, int page, int size, int extend, void volatile **to) { return CALL(f, xShmMap, page, size, extend, to); }
static int xShmLock(sqlite3_file *f, int offset, int n, int flags) { return CALL(f, xShmLock, offset, n, flags); }
static void xShmBarrier(sqlite3_file *f) { CALL(f, xShmBarrier); }
static int xShmUnmap(sqlite3_file *f, int delete) { return CALL(f, xShmUnmap, delete); }

static const sqlite3_io_methods methods = {
	2,       xClose,    xRead,      xWrite,   xTruncate,   xSync,     xFileSize, xLock, xUnlock, xCheckReservedLock, xFileControl, xSectorSize,
	xDeviceCharacteristics, xShmMap, xShmLock, xShmBarrier, xShmUnmap,
};

static sqlite3_vfs *below;
static sqlite3_vfs vfs;

static int xOpen(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
	int code = below->xOpen(below, name, BELOW(f), flags, out);
	f->pMethods = BELOW(f)->pMethods ? &methods : 0;
	((file *)f)->id = code == OK && name ? powercutOpened((char *)name) : 0;
	return code;
}

static int xDelete(sqlite3_vfs *v, const char *name, int sync) {
	return powercutDelete((char *)name) ? below->xDelete(below, name, sync) : IOERR_DELETE;
}

int powercutRegister(void) {
	if (!sqlite3_vfs_find || !sqlite3_vfs_register) return -1;
	if (below) return OK;
	below = sqlite3_vfs_find(0);
	if (!below) return -1;
	vfs = *below;
	vfs.zName = "powercut";
	vfs.szOsFile = sizeof(file) + below->szOsFile;
	vfs.xOpen = xOpen;
	vfs.xDelete = xDelete;
	return sqlite3_vfs_register(&vfs, 1);
}
