package node

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/object"
)

// maxCopy bounds a copy, in bytes. An object's annotations may have 256 KiB together.
const maxCopy = 128 << 10

// maxAnnotation bounds one annotation in a copy, in bytes.
const maxAnnotation = 8 << 10

// A nodeCopy is what CloudCore keeps of a Node to create it again: what people and controllers wrote. The kubelet
// writes the rest when it sees the new Node.
type nodeCopy struct {
	ProviderID    string            `json:"providerID"`
	Labels        map[string]string `json:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
	Taints        []corev1.Taint    `json:"taints,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	PodCIDRs      []string          `json:"podCIDRs,omitempty"`
}

// ownTaints are set by Kubernetes from the Node's conditions and come back by themselves. The two of cloud providers
// keep a Node from use until a cloud controller has seen the machine, which never comes for an edge.
var ownTaints = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodeDiskPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodePIDPressure,
	"node.cloudprovider.kubernetes.io/uninitialized", "node.cloudprovider.kubernetes.io/shutdown",
}

// copyOf returns the copy of a node's Node, or nil where the cache has none or it is not an edge's.
func (k *Keeper) copyOf(node string) []byte {
	o, ok := k.deps.Cache.Object(object.Key{Kind: object.Nodes, Name: node})
	if !ok {
		return nil
	}
	n, ok := o.(*corev1.Node)
	if !ok || !IsEdge(n) {
		return nil
	}
	b, err := makeCopy(n)
	if err != nil {
		k.m.failures.WithLabelValues("node copy").Inc()
		k.deps.Log.Warn("cannot keep a copy of a Node: it could not be created again", "node", node, "err", err)
		return nil
	}
	return b
}

// makeCopy returns n's copy as JSON, the same for the same Node. Annotations are left out, the last by name first,
// where it would be too large; without them it always fits what an API server accepts in a Node, or it is an error.
func makeCopy(n *corev1.Node) ([]byte, error) {
	c := nodeCopy{
		ProviderID: n.Spec.ProviderID, Labels: n.Labels, Unschedulable: n.Spec.Unschedulable, PodCIDRs: n.Spec.PodCIDRs,
		Annotations: map[string]string{},
	}
	for _, t := range n.Spec.Taints {
		if !slices.Contains(ownTaints, t.Key) {
			t.TimeAdded = nil
			c.Taints = append(c.Taints, t)
		}
	}
	slices.SortFunc(c.Taints, func(a, b corev1.Taint) int {
		return strings.Compare(a.Key+"\x00"+string(a.Effect), b.Key+"\x00"+string(b.Effect))
	})
	base, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode copy: %w", err)
	}
	size := len(base)
	if size > maxCopy {
		return nil, fmt.Errorf("labels and taints have %d bytes, limit %d", size, maxCopy)
	}
	for _, key := range slices.Sorted(maps.Keys(n.Annotations)) {
		value := n.Annotations[key]
		// What a node says of a drill it says again.
		if key == corev1.LastAppliedConfigAnnotation || key == drill.AnnotationState || len(value) > maxAnnotation {
			continue
		}
		// JSON writes a byte as at most 6 (\u003c).
		if size += 6*(len(key)+len(value)) + 8; size > maxCopy {
			break
		}
		c.Annotations[key] = value
	}
	return json.Marshal(c)
}

// restore returns the Node to create from a copy.
func restore(node string, raw []byte) (*corev1.Node, error) {
	var c nodeCopy
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("decode the copy of node %s: %w", node, err)
	}
	// Of another node it would make one machine's Node pass for another's to whoever goes by it.
	if c.ProviderID != ProviderIDPrefix+node {
		return nil, fmt.Errorf("the copy of node %s has providerID %q, expected %s%s", node, c.ProviderID, ProviderIDPrefix, node)
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: c.Labels, Annotations: c.Annotations},
		Spec:       corev1.NodeSpec{ProviderID: c.ProviderID, Taints: c.Taints, Unschedulable: c.Unschedulable, PodCIDRs: c.PodCIDRs},
	}
	if len(c.PodCIDRs) > 0 {
		n.Spec.PodCIDR = c.PodCIDRs[0]
	}
	return n, nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return string(sum[:16])
}
