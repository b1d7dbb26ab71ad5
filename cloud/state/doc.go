// Package state keeps the cluster's objects in memory, once for all edges, and knows which node may see which.
//
// It promises:
//   - one list and one watch per kind, however many nodes subscribe (I5);
//   - each version of an object is encoded once and compressed at most once, and the bytes are shared;
//   - a node sees what the stock Node authorizer lets it get, and less by choice (I6): of Services only those of
//     namespaces that have pods on the node, and default/kubernetes;
//   - a change costs work in proportion to the nodes that see the object, and a new subscriber work in proportion to
//     the objects that it sees; no change waits for a subscriber (I9);
//   - every absence has a cause (I8), and nothing is said to be absent before the first list of every kind is in;
//   - a pod becomes visible only when what it refers to is in the cache or really absent, so that an optional
//     ConfigMap that the pod was created after is never missed.
//
// The hub gives a View to each session, cloud/upstream reads single objects. The package writes nothing to the API
// server.
package state
