// Package powercut is a disk that loses its power under SQLite, in one process: what was written and not synced may be gone,
// all of it or any part. Killing a process shows nothing of this, for the kernel keeps what a killed process wrote.
//
// It stands between SQLite and its files as a VFS, and knows of each file what was there at its last sync and what was
// written since. It promises that a commit which the database said is durable is on the disk after a cut, and that nothing else
// need be. Creating, renaming and deleting a file count as durable at once, and so does what Go writes past SQLite.
package powercut
