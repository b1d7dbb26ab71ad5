// Package apitable replays one table of requests against a real kube-apiserver and against the edge's local API over a
// real store, and compares codes, bodies, error reasons and watch events.
//
// It promises that whatever differs is named in the table with the reason why. What two servers cannot have in common
// is set aside: uids, versions, times, managedFields and the contents of tokens. It has tests only.
package apitable
