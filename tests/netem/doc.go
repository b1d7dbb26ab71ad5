// Package netem makes a bad network out of a good one: a relay takes the place of a piece of cable and delays, loses
// or slows down the Ethernet frames that pass, in each direction by itself. Tests of the link use it where the kernel
// has no netem queueing discipline.
//
// It promises that frames of one direction keep their order, that the same seed and the same frames lose the same
// frames, that it forwards everything unchanged while the settings are zero, that every frame it has taken is counted,
// and that it sleeps while nothing is due.
//
// The relay joins two links (usually one end each of two veth pairs) that must be its own: it switches ARP and IPv6
// off on them, so that the kernel does not answer in place of the far end. The far ends must not leave checksums and
// segmentation to a device, or what passes is no real packet: see DisableOffload. VLAN tags are not kept.
package netem
