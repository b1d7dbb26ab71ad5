// Package mqtt is the MQTT side of devices: a broker inside edgecore, or a client of a broker that is already there, and
// on either the topics under $hw/ that device software of this field speaks.
//
// It promises that nothing a client sends crashes the process, blocks it or makes it grow without bound; that one client's
// flood or stall is that client's own; that what the broker acknowledged is in its Memory; and that only the edge itself
// publishes what the edge says: results, deltas, documents and memberships. It knows no twin: requests go to Devices, and
// whoever owns the twins tells it what changed. edge/edgecore wires it to edge/device and edge/store.
package mqtt
