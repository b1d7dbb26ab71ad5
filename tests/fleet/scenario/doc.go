// Package scenario puts a fleet of simulated edges through what fleets go through, beside a real control plane and the real
// CloudCore, and measures: `make fleet` does it in full, `make ci` with a few hundred edges.
//
// It promises that nothing inside the hub is told that a scenario runs, that a figure says what it is of and how it was
// taken, and that what must hold at any size and speed is told from what depends on the machine: a promise that is broken
// fails every run, a target that is missed fails the full one.
package scenario
