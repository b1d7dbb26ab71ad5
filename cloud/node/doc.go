// Package node keeps the cloud's side of edge nodes in order, as CloudCore itself: Leases, the Node objects, and the
// tolerations of the pods bound to them.
//
// It promises:
//   - the Lease of a connected node is renewed every 15 to 20 s while its session lives and its kubelet's own renewal
//     is not too old, never with an earlier time than before, at one request per renewal (I5);
//   - the Lease says which session holds the node; a session that lost it to another replica is reported, and renews
//     nothing more;
//   - a Node that vanished is created again within 10 s, from the copy of labels, taints and annotations in its Lease
//     and never from what the edge says, unless the Lease carries AnnotationRemoved or is gone;
//   - Nodes of edges carry their role labels, which kubelets may not set;
//   - pods on edge nodes are not evicted because the node cannot be reached, unless they or their namespace say that they
//     may be (AnnotationEvict); each is written once, at a bounded rate.
//
// An edge Node is one whose spec.providerID begins with ProviderIDPrefix. The hub reports sessions to a Keeper, the
// shared cache tells it what changed; it makes no watch of its own.
package node
