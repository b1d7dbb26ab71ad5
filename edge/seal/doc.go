// Package seal keeps the keys with which an edge seals its Secrets and tokens on the disk (I10).
//
// A Ring holds random data keys. Each is itself sealed by a source, the best that the machine has: a TPM 2.0, else a
// systemd credential, else a file that only root may read. It promises:
//   - a body that was sealed opens with the same key and the same context only, so that bodies cannot change places;
//   - a key is on the disk, sealed by its source, before anything is sealed with it;
//   - a source that is gone (another TPM, a deleted file) costs what was sealed with its keys, and nothing else: the
//     ring goes on with a new key, and keeps the old ones for the case that their source comes back;
//   - keys do not grow old: where the source changes, or a key is older than half a year, the next start makes a new one.
//
// What is sealed, and what happens to a body whose key is lost, is edge/store's to say; docs/storage.md describes the
// file. edge/edgecore is the only user.
package seal
