// Package soak has the local API serve for long: watches that come and go by the ten thousand, over TLS and in memory, and lists,
// while what they show changes. It promises that none of them leaves anything behind: memory, goroutines, file descriptors, watches
// of the store. It has tests only; TETHER_SOAK_WATCHES says how many watches there are, 100000 for a full run.
package soak
