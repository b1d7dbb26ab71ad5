// Package controlplane runs a stock Kubernetes control plane (etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler) from one binary, for
// a machine that has no cluster. The quickstart and the tests use it; nothing
// else in Tether depends on it, and a cluster of any other making serves as well.
//
// # How it runs
//
// Upstream's components each own process-wide state (flag sets, feature gates,
// metrics registries), so they cannot share a process. [ControlPlane.Start]
// therefore re-executes the binary once per component, with the arguments
// "component NAME --flags"; main hands those to [RunComponent], which calls
// upstream's own entry point. The flags are upstream's and show in ps.
//
// # What it promises
//
//   - Stock semantics: the Node and RBAC authorizers, NodeRestriction, service
//     account tokens, aggregation and bootstrap tokens are set as in an ordinary
//     cluster. Feature gates keep their defaults. Only leader election is off
//     (there is one of each), so that a restart does not wait for a lease.
//   - Loopback by default. The API server always serves 127.0.0.1; BindAddress
//     and ExtraAddresses are served in addition, each by a listening socket of its own.
//   - The data directory survives restarts, belongs to one process at a time,
//     and is refused if somebody else made it. See [Config.DataDir].
//   - Nothing is started unless the configuration, the directory and every port
//     are good; the error lists all faults found at that step.
//   - Certificates are made once, kept, and re-issued when they near expiry or
//     no longer fit the configuration, also while running.
//   - Before the first readiness a component that exits ends Start with the last
//     lines of its log. Afterwards it is started again with back-off, for ever,
//     and each exit is logged: a control plane that ran once has data worth serving.
//   - No component outlives the process that started it, even when that is killed.
//
// # Knowing that it is ready
//
// Three signals, in this order, once all four components answered, the default
// service account exists and the kubelet rights of the API server are bound:
// Config.ReadyFile appears (written whole, then renamed; JSON of [ReadyInfo]), the
// channel of [ControlPlane.Ready] closes, and the line starting with
// "controlplane ready" is printed to standard output. The file is removed at
// the next start and at a clean stop.
package controlplane
