package keadm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// edgeRole is the label of every edge node.
const edgeRole = "node-role.kubernetes.io/edge"

// A daemonSet is one that would put a pod on a Ready edge node.
type daemonSet struct {
	Name string `json:"name"` // namespace/name
	// Meant: it asks for edge nodes. Else it is one that wants every node.
	Meant bool `json:"meant"`
	// KeptOff: it was patched, and puts no pod on edge nodes any more, or none but where it asks for them if it is Meant.
	KeptOff bool `json:"keptOff"`
}

// checkCluster lists the DaemonSets on edge nodes, and if told so keeps off them those that are not meant for them.
func checkCluster(ctx context.Context, w IO, client *clusterClient, output string, keepOff, force bool) error {
	found, err := client.daemonSets(ctx)
	if err != nil {
		return err
	}
	if names := strays(found); keepOff && len(names) > 0 {
		if err := confirmed(w, force, "Patch "+strings.Join(names, ", ")+" to keep them off edge nodes?"); err != nil {
			return err
		}
		if err := client.keepAllOff(ctx, found); err != nil {
			return err
		}
	}
	return show(w.Out, output, found, func(t io.Writer) {
		if len(found) == 0 {
			fmt.Fprintln(t, "no DaemonSet puts pods on edge nodes")
			return
		}
		row(t, "DAEMONSET ON EDGE NODES", "")
		for _, d := range found {
			switch {
			case d.Meant && d.KeptOff:
				row(t, d.Name, "patched, but for where it asks for them")
			case d.Meant:
				row(t, d.Name, "meant for them, left alone")
			case d.KeptOff:
				row(t, d.Name, "patched, kept off from now on")
			default:
				row(t, d.Name, "keadm check --keep-off-edge keeps it off")
			}
		}
	})
}

// strays are the names of those that are neither meant for edge nodes nor kept off them.
func strays(sets []daemonSet) (names []string) {
	for _, d := range sets {
		if !d.Meant && !d.KeptOff {
			names = append(names, d.Name)
		}
	}
	return names
}

// keepAllOff patches those that are not meant for edge nodes, and marks them. One of which a part asks for edge nodes is
// meant for them in the end.
func (c *clusterClient) keepAllOff(ctx context.Context, sets []daemonSet) error {
	for i, d := range sets {
		if d.Meant {
			continue
		}
		namespace, name, _ := strings.Cut(d.Name, "/")
		// Its controller writes its status at any time.
		if err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
			sets[i].Meant, err = c.keepOff(ctx, namespace, name)
			return err
		}); err != nil {
			return err
		}
		sets[i].KeptOff = true
	}
	return nil
}

// strays tells, at the end of init, of the DaemonSets that would put pods on edge nodes, or keeps them off. It returns
// the names of those that are not kept off.
func (c *clusterClient) strays(ctx context.Context, w IO, keepOff bool) ([]string, error) {
	found, err := c.daemonSets(ctx)
	if err != nil {
		return nil, err
	}
	names := strays(found)
	if len(names) == 0 {
		return []string{}, nil // for programs an empty list, not null
	}
	if !keepOff {
		fmt.Fprintf(w.Out, "\nThese DaemonSets will put pods on edge nodes too: %s.\nWhere that is not wanted, keep them off with: keadm check --keep-off-edge\n", strings.Join(names, ", "))
		return names, nil
	}
	if err := c.keepAllOff(ctx, found); err != nil {
		return nil, err
	}
	fmt.Fprintf(w.Out, "patched  to keep off edge nodes: %s\n", strings.Join(names, ", "))
	return []string{}, nil
}

// daemonSets lists the DaemonSets that would put a pod on a Ready edge node.
func (c *clusterClient) daemonSets(ctx context.Context) ([]daemonSet, error) {
	sets, err := c.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list DaemonSets: %w", err)
	}
	found := []daemonSet{}
	for _, d := range sets.Items {
		if lands, meant := onEdge(&d.Spec.Template.Spec); lands {
			found = append(found, daemonSet{Name: d.Namespace + "/" + d.Name, Meant: meant})
		}
	}
	return found, nil
}

// onEdge reports whether a node with the edge role alone among role labels would get a pod, and whether each way to get
// one asks for that role. What else is asked of labels cannot be known and counts as met.
func onEdge(spec *corev1.PodSpec) (lands, meant bool) {
	for key := range spec.NodeSelector {
		if strings.HasPrefix(key, rolePrefix) && key != edgeRole {
			return false, false
		}
	}
	_, meant = spec.NodeSelector[edgeRole]
	if spec.Affinity == nil || spec.Affinity.NodeAffinity == nil || spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true, meant
	}
	everyWay := true
	for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if allowsEdge(term) {
			lands = true
			everyWay = everyWay && asksForEdge(term)
		}
	}
	return lands, lands && (meant || everyWay)
}

const rolePrefix = "node-role.kubernetes.io/"

// allowsEdge: an edge node may meet the term. One that asks for nothing is met by no node at all.
func allowsEdge(term corev1.NodeSelectorTerm) bool {
	if asksNothing(term) {
		return false
	}
	for _, e := range term.MatchExpressions {
		if e.Key == edgeRole && (e.Operator == corev1.NodeSelectorOpDoesNotExist || e.Operator == corev1.NodeSelectorOpNotIn && slices.Contains(e.Values, "")) {
			return false
		}
		if strings.HasPrefix(e.Key, rolePrefix) && e.Key != edgeRole && (e.Operator == corev1.NodeSelectorOpExists || e.Operator == corev1.NodeSelectorOpIn) {
			return false
		}
	}
	return true
}

func asksNothing(term corev1.NodeSelectorTerm) bool {
	return len(term.MatchExpressions) == 0 && len(term.MatchFields) == 0
}

// asksForEdge: only an edge node meets the term.
func asksForEdge(term corev1.NodeSelectorTerm) bool {
	return slices.ContainsFunc(term.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool {
		return e.Key == edgeRole && (e.Operator == corev1.NodeSelectorOpExists || e.Operator == corev1.NodeSelectorOpIn)
	})
}

// keepOff adds to each way in which a DaemonSet's pods may be placed, but for those that ask for an edge node, that the
// node is none. It reports whether there are such.
func (c *clusterClient) keepOff(ctx context.Context, namespace, name string) (asks bool, err error) {
	d, err := c.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("read DaemonSet %s/%s: %w", namespace, name, err)
	}
	noEdge := corev1.NodeSelectorRequirement{Key: edgeRole, Operator: corev1.NodeSelectorOpDoesNotExist}
	terms := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{noEdge}}}
	if a := d.Spec.Template.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		for i := range terms {
			switch {
			case asksNothing(terms[i]): // with what is added it would be met by every other node
			case asksForEdge(terms[i]):
				asks = true
			default:
				terms[i].MatchExpressions = append(terms[i].MatchExpressions, noEdge)
			}
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": d.ResourceVersion},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"affinity": map[string]any{"nodeAffinity": map[string]any{
			"requiredDuringSchedulingIgnoredDuringExecution": corev1.NodeSelector{NodeSelectorTerms: terms}}}}}},
	})
	if err != nil {
		return false, err
	}
	if _, err := c.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return false, fmt.Errorf("patch DaemonSet %s/%s: %w", namespace, name, err)
	}
	return asks, nil
}
