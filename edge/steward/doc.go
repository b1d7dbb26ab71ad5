// Package steward keeps a site's applications running where the cluster lost them or cannot replace them.
//
// A pod that is *held* vanished from the cluster because its Node did: the store keeps it, and it runs on. A *stand-in* is a copy,
// made here, of a pod that the kubelet ended for good (evicted, or rejected at a start) while its controller could not hear of it.
// Both are kept pods: the site has them without the cloud. A kept pod retires once the cluster has given this node another pod of
// the same controller, and that one is Ready; where the two do not fit beside each other, the kept one goes first, and the kubelet
// is not shown the other before it has ended. People retire one with `kubectl delete pod` at the gateway.
//
// A pod annotated tether.io/fence is the other way round: it had rather not run than run twice. On a node that has a fenceAfter and
// has not heard the cloud for so long, the kubelet is not shown it any more, and ends it.
//
// What is decided is a pure function of a picture of the node (judge, fence); the Steward takes pictures and makes changes.
package steward

import "github.com/tether-edge/tether/common/object"

// Annotations.
const (
	// StandInFor is, on a stand-in, the name of the pod that it stands for; StandInForUID is its uid. Attempt counts the stand-ins of
	// that pod, from 1.
	StandInFor    = object.AnnotationStandInFor
	StandInForUID = object.AnnotationStandInForUID
	Attempt       = "tether.io/stand-in-attempt"
	// Peers is, on a kept pod, the uids of pods of the same controller that do not replace it, separated by commas: they were there
	// before it, or have replaced another.
	Peers = "tether.io/kept-peers"
	// Retired is, on a kept pod that ends, why.
	Retired = "tether.io/retired"
	// Hold says on a pod whether the site may keep it ("true", "false"). Without it, pods of Deployments, StatefulSets, DaemonSets and
	// their like are kept.
	Hold = "tether.io/hold"
	// Fence marks a pod ("true") that is ended on a node that is cut off for its fenceAfter.
	Fence = object.AnnotationFence
)

// StandInLabel is on every stand-in, so that they can be listed.
const StandInLabel = "tether.io/stand-in"
