// Package horizon says until when a node can go on alone, and what ends that: before its cable breaks, while somebody can
// still mend it.
//
// A Watcher takes a Snapshot of the node every minute, with a link or without one. Judge turns it into Limits: what each stops
// or costs, for whom, and when. The horizon is the earliest of those that stop a pod or keep the node from coming
// back; the others are listed. It promises:
//
//   - What is not known is not guessed: a part that cannot be read changes nothing that is shown, and is said after ten minutes.
//   - Growth is believed when it goes on for hours. A download, a rotation of logs and a collection of garbage are none, and a
//     forecast reaches eight times as far as what was seen.
//   - A node at rest writes nothing: the Node's condition changes when the answer does, its annotation at most every six hours.
//
// edge/edgecore is the only user.
package horizon
