// Package mapper is the edge's side of the Device Mapper Interface: mappers register here, are told which devices of their
// protocol there are and what these shall be, and report what the devices have.
//
// It serves DeviceManagerService on a Unix socket and calls DeviceMapperService on the socket of each mapper. It promises that
// what a mapper was told converges to the devices of its protocol, model before device, whatever is lost in between; that it is
// told only what changed, so that no report comes back as an update; that a mapper which hangs, restarts, registers again or
// answers garbage costs the other mappers and the rest of the process nothing; and that nothing a mapper sends grows without
// bound. Mappers are remembered, since those of KubeEdge register once, at their own start, and not again when the edge
// restarts.
//
// Callers are not told apart: whoever may open the socket may report for any device. The socket is its owner's alone.
//
// The composition root edge/edgecore joins it to the device engine, which hands in the devices and takes the reports.
package mapper
