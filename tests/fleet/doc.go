// Package fleet simulates edges by the thousand in one process. Each has the real edge/link, with its state machine, its
// attempts and its patience, over real TLS and WebSocket or QUIC, and a store in memory behind the interface that the link
// has for edge/store. There is no kubelet: a pod runs at once, and what a kubelet would say of its Node and its pods goes up
// as real writes through the outbox.
//
// It promises that a hub sees of each what it would see of an edge, that an edge counts as synced only once it holds all that
// the hub has for it, that nothing is written twice that the cloud has already, and that the moment of each commit is known.
// tests/fleet/scenario and tests/cmd/bench run it beside cloudcore, in processes of their own, so that only the hub's memory
// is measured.
package fleet
