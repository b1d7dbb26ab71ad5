// Package image is a CRI image service between the kubelet and the container runtime, so that images serve a site that is
// offline. It passes every call on to the runtime, those that it does not know unchanged, and promises:
//
//   - A pull that finds no registry is answered with the image that is here, within a bounded wait, and said so. A registry
//     that says no is obeyed, now and later.
//   - An image serves only whom the registry gave it: the credentials that pulled that very image under that name, or
//     anyone where none were needed. The kubelet takes a pull that succeeded as a proof of access, so nothing else may succeed.
//   - The images of the pods in the store are shown as pinned, and the kubelet's garbage collection leaves them. Where
//     it cannot be known which they are, all are.
//
// The runtime's own state is not touched: who asks the runtime itself sees no pins. edge/edgecore is the only user.
package image
