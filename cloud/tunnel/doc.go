// Package tunnel is the kubelet endpoint that kube-apiserver, metrics-server and Prometheus call: one address, and a port
// for each edge node that never changes.
//
// It promises that a caller is authenticated and authorized as a kubelet does it before a byte reaches an edge; that a
// node's port is its own for as long as there is the Node, which notes it, or its copy, whichever CloudCore gave it; that
// what is relayed is not looked into; that a node that is away is said to be, with when it was last heard of; and that
// scrapers learn of kubelets what the Nodes show, if they may list them. cloud/hub opens the streams,
// edge/tunnel is their other end, and cloud/upstream shows the endpoint as the Node's address. cloud/cloudcore wires it.
package tunnel
