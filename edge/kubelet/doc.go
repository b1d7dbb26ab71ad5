// Package kubelet runs the stock kubelet inside edgecore and contains it.
//
// The kubelet is upstream's own (k8s.io/kubernetes/cmd/kubelet/app), unchanged; its clients are ours and reach the
// local API in memory. This package is the one owner of what the kubelet keeps per process: klog, the feature gates,
// the legacy metrics registry. It promises:
//
//   - Nothing of the kubelet runs before the store holds one completed sync, the host has what the kubelet ends its
//     process over (kernel log, cgroup controllers, a free port), and the runtime answers. None of these waits has a
//     limit: a runtime that is absent for an hour costs nothing but the hour.
//   - A kubelet that ends the process does so once per try: a durable mark says "kubelet starting" until it is stable,
//     and a process that finds the mark set delays its own start of the kubelet, longer each time, up to 5 minutes. Why
//     the last try ended is kept beside the mark.
//   - Serve gives a connection to the kubelet's own server, from within the process and with all rights. Whoever comes over
//     a network, loopback included, needs a certificate.
//
// What cannot be had: the kubelet can be started once in a process and never stopped. Its loops go on after Start has
// returned, so a caller that sees Start return must end the process. edge/edgecore is the only user.
package kubelet
