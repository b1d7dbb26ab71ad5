// What of a SQLite VFS vfs.c uses (https://sqlite.org/c3ref/vfs.html and io_methods.html): go-sqlite3 keeps its header to itself.

#ifndef STORE_VFS_H
#define STORE_VFS_H

typedef struct sqlite3_file sqlite3_file;
typedef struct sqlite3_vfs sqlite3_vfs;

typedef struct {
	int iVersion;
	int (*xClose)(sqlite3_file *);
	int (*xRead)(sqlite3_file *, void *, int, long long);
	int (*xWrite)(sqlite3_file *, const void *, int, long long);
	// Taken over as they are: of version 1, 2 and 3.
	void (*others[15])(void);
} sqlite3_io_methods;

struct sqlite3_file {
	const sqlite3_io_methods *pMethods;
};

struct sqlite3_vfs {
	int iVersion;
	int szOsFile;
	int mxPathname;
	sqlite3_vfs *pNext;
	const char *zName;
	void *pAppData;
	int (*xOpen)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
	// Taken over as they are: of version 1, 2 and 3.
	void (*others[15])(void);
};

// storeRegister puts the VFS that counts before the one that SQLite takes by default. It returns an error code of SQLite, or -1
// where this program has no SQLite.
int storeRegister(void);

// storeWritten is how many bytes SQLite has written into the database and its log, and into other files, since storeRegister.
void storeWritten(long long *database, long long *others);

#endif
