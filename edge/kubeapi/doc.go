// Package kubeapi is the edge's own Kubernetes API: it serves what the edge's store holds to the kubelet and to local
// clients, and turns their writes into stored changes and outgoing messages.
//
// It promises:
//   - A read never waits for the network. Before the first completed sync of a kind it answers 503 and never an empty
//     list or a 404, because the kubelet would take those for an order to stop what runs.
//   - A write that is accepted is durable in the store, together with what has to reach the cloud because of it.
//   - List and watch are consistent in a resourceVersion space of the edge's own. An object recreated under the same
//     name is a DELETED and an ADDED event, even if the stream from the cloud skipped the states between.
//   - What only the cloud can decide (a token, a new Node, a mirror pod, a volume's patch) is asked of it within a
//     bounded time, and answered 503 with a reason while there is no link.
//
// Requests are parsed, negotiated, patched and encoded by k8s.io/apiserver's own handlers. Its installer is not used:
// it is bound to internal API versions, which the edge has none of, and it keeps the API documentation of every type
// in memory, which edgecore has no room for.
//
// Limit and continue are not supported, as the API conventions allow: a list is always whole.
//
// edge/edgecore builds it; the embedded kubelet calls it through Transport, others through Serve.
package kubeapi
