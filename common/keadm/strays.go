package keadm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// edgeRole is the label of every edge node.
const edgeRole = "node-role.kubernetes.io/edge"

func checkCluster(ctx context.Context, w IO, kubeconfig, output string, keepOff bool) error {
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	found, err := client.strayDaemonSets(ctx)
	if err != nil {
		return err
	}
	if !keepOff {
		return show(w.Out, output, found, func(t io.Writer) {
			row(t, "DAEMONSET ON EDGE NODES")
			for _, f := range found {
				row(t, f)
			}
		})
	}
	for _, f := range found {
		namespace, name, _ := strings.Cut(f, "/")
		if err := client.keepOff(ctx, namespace, name); err != nil {
			return err
		}
		fmt.Fprintf(w.Out, "patched  %s\n", f)
	}
	return nil
}

// strayDaemonSets lists the DaemonSets, as namespace/name, that would put a pod on a Ready edge node.
func (c *clusterClient) strayDaemonSets(ctx context.Context) ([]string, error) {
	sets, err := c.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list DaemonSets: %w", err)
	}
	found := []string{}
	for _, d := range sets.Items {
		if landsOnEdge(&d) {
			found = append(found, d.Namespace+"/"+d.Name)
		}
	}
	return found, nil
}

// landsOnEdge reports whether a node with the edge role alone among role labels would get a pod of the set. What it asks
// of other labels cannot be known and counts as met.
func landsOnEdge(d *appsv1.DaemonSet) bool {
	spec := d.Spec.Template.Spec
	for key := range spec.NodeSelector {
		if strings.HasPrefix(key, "node-role.kubernetes.io/") && key != edgeRole {
			return false
		}
	}
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil || spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if termAllowsEdge(term) {
			return true
		}
	}
	return false
}

func termAllowsEdge(term corev1.NodeSelectorTerm) bool {
	for _, e := range term.MatchExpressions {
		if e.Key == edgeRole && (e.Operator == corev1.NodeSelectorOpDoesNotExist || e.Operator == corev1.NodeSelectorOpNotIn && len(e.Values) > 0 && e.Values[0] == "") {
			return false
		}
		if strings.HasPrefix(e.Key, "node-role.kubernetes.io/") && e.Key != edgeRole && e.Operator == corev1.NodeSelectorOpExists {
			return false
		}
	}
	return true
}

// keepOff adds to each way in which a DaemonSet's pods may be placed that the node is no edge.
func (c *clusterClient) keepOff(ctx context.Context, namespace, name string) error {
	d, err := c.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read DaemonSet %s/%s: %w", namespace, name, err)
	}
	noEdge := corev1.NodeSelectorRequirement{Key: edgeRole, Operator: corev1.NodeSelectorOpDoesNotExist}
	terms := []corev1.NodeSelectorTerm{{}}
	if a := d.Spec.Template.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	for i := range terms {
		terms[i].MatchExpressions = append(terms[i].MatchExpressions, noEdge)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": d.ResourceVersion},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"affinity": map[string]any{"nodeAffinity": map[string]any{
			"requiredDuringSchedulingIgnoredDuringExecution": corev1.NodeSelector{NodeSelectorTerms: terms}}}}}},
	})
	if err != nil {
		return err
	}
	if _, err := c.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("patch DaemonSet %s/%s: %w", namespace, name, err)
	}
	return nil
}
