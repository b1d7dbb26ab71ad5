// Package chaos breaks a whole Tether system on purpose and checks what is left: a real control plane, two CloudCores,
// an edge with containerd and edgecore in namespaces of its own behind a cable that can be bad in many ways, and
// workloads that change all the time. `make chaos` runs it.
//
// It promises that the same seed draws the same faults, that every fault comes at least twice in five whole seeds, that
// after each one the system must come to rest with both sides equal before the next begins, and that what it finds is
// said with the seed, a timeline and the command that repeats it.
package chaos
