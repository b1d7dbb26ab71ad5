// Package drill cuts this node's link by agreement, for real and for a while, watches what becomes of the site, and reports
// it; see common/drill for what is said to and fro.
//
// It promises that nothing is cut before the cluster shows that this node agreed; that the cut ends at its deadline though
// nobody in the cloud is left, the agent is killed or the machine loses its power, and that none of that, nor a clock that
// jumps, makes it longer; and that an order that is old, met again or withdrawn does nothing. What it knows is in notes of the
// store: a note is on the disk before what it says is done. edge/edgecore wires it, and has edge/link heed its Gate.
package drill
