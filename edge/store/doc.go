// Package store keeps what an edge node needs to live without the cloud, in one SQLite database: objects, the outbox
// of writes that wait for the cloud, service account tokens, and what other parts of edgecore keep for themselves (notes).
//
// It promises:
//   - an Apply or ApplyBatch that returned nil is committed; one that queues a write is on the disk (I2);
//   - readers and watchers see committed states only, in one order of local resourceVersions, which never repeat;
//   - an object goes only for an explicit delete, and not even then where the site must keep it (I8);
//   - a damaged database is set aside, salvaged and restored at Open, without anyone's help (I11);
//   - a bad object or a failing change spoils no other in the same transaction (I9).
//
// edge/kubeapi reads, watches and applies changes; edge/link applies batches and empties the outbox. docs/storage.md
// describes the files and the schema. All writes go through one goroutine, which Start runs; SQL is nowhere else.
package store
