// Package fleet simulates edges by the thousand in one process: real TLS, real WebSocket, the real state machine of
// common/session, and a store in memory. There is no kubelet and no pod.
//
// It promises that a hub sees of each what it would see of an edge without pods, that an edge is counted as connected
// only after its Welcome and as synced only once it holds all that the hub has for it, and that a session which ends is
// counted and made anew. tests/cmd/bench runs it beside cloudcore, in a process of its own, so that only the hub's
// memory is measured.
package fleet
