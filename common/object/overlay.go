package object

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// An Overlay is what the kubelet wrote into its own Node or into one of its Pods. The cloud owns everything else.
// Both ends merge it with Merge: the edge over the cloud's base, to serve it; the hub over the current object, to
// compute the patch. So a write made offline for hours keeps what the cloud changed meanwhile in fields of its own.
type Overlay struct {
	Pod  *corev1.PodStatus  `json:"pod,omitempty"`
	Node *corev1.NodeStatus `json:"node,omitempty"`
	// Conditions are the condition types that the kubelet wrote. Those of them that are not in the status were
	// removed by it.
	Conditions []string `json:"conditions,omitempty"`
	// Capacity and Allocatable are the resource names that the kubelet wrote, as Conditions.
	Capacity    []string `json:"capacity,omitempty"`
	Allocatable []string `json:"allocatable,omitempty"`
	// Labels and Annotations are the keys that the kubelet wrote on the Node, nil where it removed one.
	Labels      map[string]*string `json:"labels,omitempty"`
	Annotations map[string]*string `json:"annotations,omitempty"`
}

// EncodeOverlay returns o as JSON, the form in which it is stored and sent.
func EncodeOverlay(o *Overlay) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode overlay: %w", err)
	}
	return b, nil
}

// DecodeOverlay reads what EncodeOverlay wrote. What Vet refuses is an error.
func DecodeOverlay(b []byte) (*Overlay, error) {
	if err := Vet(b); err != nil {
		return nil, fmt.Errorf("decode overlay of %d bytes: %w", len(b), err)
	}
	o := &Overlay{}
	if err := json.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("decode overlay of %d bytes: %w", len(b), err)
	}
	return o, nil
}

// Extend returns the overlay after the kubelet changed an object from before to after: what it wrote earlier
// (previous, may be nil) and what it wrote now. before and after are of the same type, *corev1.Pod or *corev1.Node;
// of any other type it returns an error.
func Extend(previous *Overlay, before, after Object) (*Overlay, error) {
	if previous == nil {
		previous = &Overlay{}
	}
	switch b := before.(type) {
	case *corev1.Pod:
		a, ok := after.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("extend overlay: before is a Pod, after is a %T", after)
		}
		next := &Overlay{Pod: a.Status.DeepCopy()}
		next.Conditions = changedKeys(previous.Conditions, podConditions(b.Status.Conditions), podConditions(a.Status.Conditions))
		next.Pod.Conditions = keep(next.Pod.Conditions, podConditionType, next.Conditions)
		clearCloudPodStatus(next.Pod)
		return next, nil
	case *corev1.Node:
		a, ok := after.(*corev1.Node)
		if !ok {
			return nil, fmt.Errorf("extend overlay: before is a Node, after is a %T", after)
		}
		next := &Overlay{Node: a.Status.DeepCopy()}
		next.Conditions = changedKeys(previous.Conditions, nodeConditions(b.Status.Conditions), nodeConditions(a.Status.Conditions))
		next.Node.Conditions = keep(next.Node.Conditions, nodeConditionType, next.Conditions)
		next.Capacity = changedKeys(previous.Capacity, quantities(b.Status.Capacity), quantities(a.Status.Capacity))
		next.Node.Capacity = keepQuantities(next.Node.Capacity, next.Capacity)
		next.Allocatable = changedKeys(previous.Allocatable, quantities(b.Status.Allocatable), quantities(a.Status.Allocatable))
		next.Node.Allocatable = keepQuantities(next.Node.Allocatable, next.Allocatable)
		next.Node.VolumesAttached = nil
		next.Labels = changedStrings(previous.Labels, b.Labels, a.Labels)
		next.Annotations = changedStrings(previous.Annotations, b.Annotations, a.Annotations)
		return next, nil
	}
	return nil, fmt.Errorf("extend overlay: a kubelet owns fields of Pods and Nodes only, not of a %T", before)
}

// ClaimResources makes o own every capacity and allocatable entry of n. A Node that is made anew comes without a status:
// what the kubelet reported when it registered is then nowhere but in the Node that was.
func (o *Overlay) ClaimResources(n *corev1.Node) {
	if o.Node == nil {
		o.Node = &corev1.NodeStatus{}
	}
	status := n.Status.DeepCopy()
	o.Node.Capacity, o.Node.Allocatable = status.Capacity, status.Allocatable
	o.Capacity = changedKeys(nil, nil, quantities(status.Capacity))
	o.Allocatable = changedKeys(nil, nil, quantities(status.Allocatable))
}

// Merge returns base with the overlay's fields in it. base is not changed. A nil overlay, or one of another type
// than base, merges nothing.
func Merge(base Object, o *Overlay) Object {
	out := base.DeepCopyObject().(Object)
	switch obj := out.(type) {
	case *corev1.Pod:
		if o == nil || o.Pod == nil {
			hideForeignPodEnd(obj)
			return out
		}
		cloud := obj.Status
		obj.Status = *o.Pod.DeepCopy()
		obj.Status.NominatedNodeName = cloud.NominatedNodeName
		obj.Status.ResourceClaimStatuses = cloud.ResourceClaimStatuses
		obj.Status.ExtendedResourceClaimStatus = cloud.ExtendedResourceClaimStatus
		obj.Status.Conditions = mergeList(cloud.Conditions, o.Pod.Conditions, podConditionType, o.Conditions)
	case *corev1.Node:
		if o == nil || o.Node == nil {
			return out
		}
		cloud := obj.Status
		obj.Status = *o.Node.DeepCopy()
		obj.Status.VolumesAttached = cloud.VolumesAttached
		obj.Status.Conditions = mergeList(cloud.Conditions, o.Node.Conditions, nodeConditionType, o.Conditions)
		obj.Status.Capacity = mergeQuantities(cloud.Capacity, o.Node.Capacity, o.Capacity)
		obj.Status.Allocatable = mergeQuantities(cloud.Allocatable, o.Node.Allocatable, o.Allocatable)
		obj.Labels = mergeStrings(obj.Labels, o.Labels)
		obj.Annotations = mergeStrings(obj.Annotations, o.Annotations)
	}
	return out
}

// clearCloudPodStatus drops the parts of a pod's status that controllers write.
func clearCloudPodStatus(s *corev1.PodStatus) {
	s.NominatedNodeName = ""
	s.ResourceClaimStatuses = nil
	s.ExtendedResourceClaimStatus = nil
}

// hideForeignPodEnd takes back an end of the pod that pod garbage collection wrote for a Node it believed gone (I8).
// The kubelet would take a terminal phase for its own and never run the pod again.
func hideForeignPodEnd(p *corev1.Pod) {
	if p.Status.Phase != corev1.PodFailed {
		return
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByPodGC" {
			p.Status.Phase = corev1.PodPending
			if len(p.Status.ContainerStatuses) > 0 {
				p.Status.Phase = corev1.PodRunning
			}
			return
		}
	}
}

func podConditionType(c corev1.PodCondition) string   { return string(c.Type) }
func nodeConditionType(c corev1.NodeCondition) string { return string(c.Type) }

func podConditions(l []corev1.PodCondition) map[string]any {
	m := map[string]any{}
	for _, c := range l {
		m[string(c.Type)] = c
	}
	return m
}

func nodeConditions(l []corev1.NodeCondition) map[string]any {
	m := map[string]any{}
	for _, c := range l {
		m[string(c.Type)] = c
	}
	return m
}

func quantities(l corev1.ResourceList) map[string]any {
	m := map[string]any{}
	for k, q := range l {
		m[string(k)] = q.String()
	}
	return m
}

// changedKeys returns, sorted, the keys in previous and those whose value differs between before and after.
func changedKeys(previous []string, before, after map[string]any) []string {
	out := slices.Clone(previous)
	for k, a := range after {
		if b, ok := before[k]; !ok || !reflect.DeepEqual(a, b) {
			out = append(out, k)
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func changedStrings(previous map[string]*string, before, after map[string]string) map[string]*string {
	out := map[string]*string{}
	for k := range previous {
		if v, ok := after[k]; ok {
			out[k] = &v
		} else {
			out[k] = nil
		}
	}
	for k, v := range after {
		if b, ok := before[k]; !ok || b != v {
			out[k] = &v
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			out[k] = nil
		}
	}
	return out
}

func mergeStrings(base map[string]string, over map[string]*string) map[string]string {
	for k, v := range over {
		if v == nil {
			delete(base, k)
			continue
		}
		if base == nil {
			base = map[string]string{}
		}
		base[k] = *v
	}
	return base
}

func keep[T any](list []T, name func(T) string, owned []string) []T {
	return slices.DeleteFunc(list, func(t T) bool { return !slices.Contains(owned, name(t)) })
}

func keepQuantities(l corev1.ResourceList, owned []string) corev1.ResourceList {
	for k := range l {
		if !slices.Contains(owned, string(k)) {
			delete(l, k)
		}
	}
	return l
}

// mergeList takes the owned entries from over and the rest from base, in base's order with new ones at the end.
func mergeList[T any](base, over []T, name func(T) string, owned []string) []T {
	var out []T
	seen := map[string]bool{}
	find := func(n string) (T, bool) {
		i := slices.IndexFunc(over, func(t T) bool { return name(t) == n })
		if i < 0 {
			var zero T
			return zero, false
		}
		return over[i], true
	}
	for _, t := range base {
		n := name(t)
		seen[n] = true
		if !slices.Contains(owned, n) {
			out = append(out, t)
		} else if o, ok := find(n); ok {
			out = append(out, o)
		}
	}
	for _, t := range over {
		if n := name(t); !seen[n] && slices.Contains(owned, n) {
			out = append(out, t)
		}
	}
	return out
}

func mergeQuantities(base, over corev1.ResourceList, owned []string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for k, q := range base {
		if !slices.Contains(owned, string(k)) {
			out[k] = q
		}
	}
	for k, q := range over {
		if slices.Contains(owned, string(k)) {
			out[k] = q
		}
	}
	return out
}

// IsMirror reports whether a pod is the API's picture of a static pod.
func IsMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// TokenKey returns the name under which a TokenRequest's answer is cached: the service account, its uid, the pod's
// uid and the whole request.
func TokenKey(namespace, name, serviceAccountUID, podUID string, request []byte) string {
	return strings.Join([]string{namespace, name, serviceAccountUID, podUID, string(request)}, "\x00")
}

// SplitTokenKey returns what TokenKey was given; ok is false for any other string.
func SplitTokenKey(key string) (namespace, name, serviceAccountUID, podUID string, request []byte, ok bool) {
	parts := strings.SplitN(key, "\x00", 5)
	if len(parts) != 5 {
		return "", "", "", "", nil, false
	}
	return parts[0], parts[1], parts[2], parts[3], []byte(parts[4]), true
}
