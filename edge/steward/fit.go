package steward

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
)

// fits reports whether the kubelet will admit w beside all that runs, and what is released in the same pass: enough of each resource is
// left, and no port of the host is wanted twice. A pod of a StatefulSet never fits beside the one that it replaces: the two are one
// identity.
func (g *judgement) fits(w seen, released []seen) bool {
	if o, ok := ownerOf(w.Pod); g.node == nil || ok && o.kind == statefulSet {
		return false
	}
	need, pods := requests(w.Pod), int64(1)
	ports := hostPorts(w.Pod)
	for _, p := range g.pods {
		if p.UID == w.UID || ended(p.Pod) || p.Withheld && !slices.ContainsFunc(released, func(r seen) bool { return r.UID == p.UID }) {
			continue
		}
		pods++
		for name, q := range requests(p.Pod) {
			if have, ok := need[name]; ok {
				have.Add(q)
				need[name] = have
			}
		}
		if slices.ContainsFunc(hostPorts(p.Pod), func(x corev1.ContainerPort) bool {
			return slices.ContainsFunc(ports, func(y corev1.ContainerPort) bool { return clash(x, y) })
		}) {
			return false
		}
	}
	allocatable := g.node.Status.Allocatable
	for name, q := range need {
		if have := allocatable[name]; !q.IsZero() && have.Cmp(q) < 0 {
			return false
		}
	}
	most := allocatable[corev1.ResourcePods]
	return most.Value() >= pods
}

func requests(pod *corev1.Pod) corev1.ResourceList {
	return resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})
}

func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			for _, p := range c.Ports {
				if p.HostPort != 0 {
					ports = append(ports, p)
				}
			}
		}
	}
	return ports
}

// clash reports whether two ports of the host are the same one.
func clash(a, b corev1.ContainerPort) bool {
	any := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	protocol := func(p corev1.Protocol) corev1.Protocol {
		if p == "" {
			return corev1.ProtocolTCP
		}
		return p
	}
	return a.HostPort == b.HostPort && protocol(a.Protocol) == protocol(b.Protocol) && (a.HostIP == b.HostIP || any(a.HostIP) || any(b.HostIP))
}
