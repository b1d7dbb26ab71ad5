// Package replica lets the CloudCores of a cluster know each other, so that the edges spread evenly over them: those of a CloudCore that
// was replaced are at the others, and nothing else would ever move them back.
//
// It promises that each CloudCore that runs has one Lease, with how many sessions it holds and takes; that edges are moved only while it is plain who
// runs, no faster than a hundredth of the sessions a second or 25 in ten seconds, only from a CloudCore that has a tenth more than an even
// share and to such as take more, and not for long where it does not help; and that a CloudCore which may not keep that Lease works as if it were alone. cloud/hub moves the edges; cloud/cloudcore wires it.
package replica
