// What SQLite does to the disk: how many bytes it writes, and what a sync costs.

#include "vfs.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

// fsync is what SQLite as go-sqlite3 builds it calls at each sync, the C library's in all other programs. On ext4 it commits the
// file system's journal for the sake of the time of the last change, which nobody asks a database for: some 12 KiB of flash for a
// commit of 4. fdatasync leaves out that and nothing else; a file that grew keeps its size. SQLite knows it as
// -DHAVE_FDATASYNC, which set from outside would compile all that is C, and Go beside it, once more. Directories have no data in
// that sense, so their entries want a whole sync. Go's own files do not come here.
int fsync(int fd) {
	struct stat s;
	if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode)) return fdatasync(fd);
	return syscall(SYS_fsync, fd);
}

// Weak, since cgo links this package once without SQLite, to look at it.
extern __attribute__((weak)) sqlite3_vfs *sqlite3_vfs_find(const char *);
extern __attribute__((weak)) int sqlite3_vfs_register(sqlite3_vfs *, int);

enum { DATABASE, OTHERS, KINDS };

static long long written[KINDS];
static sqlite3_vfs vfs, *below;

// Methods that stand in for those of files of the VFS below. It has several: a log needs no locks.
typedef struct {
	sqlite3_io_methods methods; // first, so that a file's methods lead here
	const sqlite3_io_methods *original;
	int kind;
} counting;

static counting stands[16];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards stands, whose entries are set once

static int xWrite(sqlite3_file *f, const void *from, int n, long long at) {
	const counting *c = (const counting *)f->pMethods;
	__atomic_fetch_add(&written[c->kind], n, __ATOMIC_RELAXED);
	return c->original->xWrite(f, from, n, at);
}

// standIn returns what counts in place of these methods, or them where there are more than anybody has.
static const sqlite3_io_methods *standIn(const sqlite3_io_methods *original, int kind) {
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < sizeof stands / sizeof *stands; i++) {
		counting *c = &stands[i];
		if (!c->original) {
			int last = original->iVersion >= 3 ? 15 : original->iVersion == 2 ? 13 : 9;
			memcpy(&c->methods, original, offsetof(sqlite3_io_methods, others[last]));
			c->methods.xWrite = xWrite;
			c->original = original;
			c->kind = kind;
		}
		if (c->original == original && c->kind == kind) {
			original = &c->methods;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return original;
}

static int ends(const char *name, const char *with) {
	size_t n = strlen(name), m = strlen(with);
	return n >= m && strcmp(name + n - m, with) == 0;
}

static int xOpen(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
	int code = below->xOpen(below, name, f, flags, out);
	if (f->pMethods) f->pMethods = standIn(f->pMethods, name && (ends(name, "/tether.db") || ends(name, "/tether.db-wal")) ? DATABASE : OTHERS);
	return code;
}

int storeRegister(void) {
	if (!sqlite3_vfs_find || !sqlite3_vfs_register) return -1;
	below = sqlite3_vfs_find(0);
	if (!below) return -1;
	vfs = *below;
	vfs.zName = "tether";
	vfs.xOpen = xOpen;
	return sqlite3_vfs_register(&vfs, 1);
}

void storeWritten(long long *database, long long *others) {
	*database = __atomic_load_n(&written[DATABASE], __ATOMIC_RELAXED);
	*others = __atomic_load_n(&written[OTHERS], __ATOMIC_RELAXED);
}
