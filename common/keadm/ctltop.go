package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/metricsutil"
	"k8s.io/metrics/pkg/apis/metrics"
)

// measured is a NodeMetrics or a PodMetrics of metrics.k8s.io, or a list of them.
type measured struct {
	Metadata   metav1.ObjectMeta          `json:"metadata"`
	Usage      corev1.ResourceList        `json:"usage"`
	Containers []metrics.ContainerMetrics `json:"containers"`
	Items      []measured                 `json:"items"`
}

// errNotMeasured is kubectl's, with what to do.
var errNotMeasured = errors.New("metrics not available yet: the kubelet measures a container some seconds after its start")

// topFlags are what both kinds of top are asked for.
type topFlags struct {
	ctlFlags
	labels, fields, sortBy string
	noHeaders              bool
}

func (f *topFlags) shown(c *cobra.Command) {
	c.Flags().StringVarP(&f.labels, "selector", "l", "", "only those with these labels, such as app=web,tier!=db")
	c.Flags().StringVar(&f.sortBy, "sort-by", "", "the greatest first: cpu or memory (default: by name)")
	c.Flags().BoolVar(&f.noHeaders, "no-headers", false, "without the heading of the table")
	choices(c, "sort-by", "cpu", "memory")
}

// check finds faults of the flags.
func (f *topFlags) check(args []string) error {
	if f.sortBy != "" && f.sortBy != "cpu" && f.sortBy != "memory" {
		return fmt.Errorf("%w: --sort-by accepts only cpu or memory, found %q", errUsage, f.sortBy)
	}
	if len(args) > 0 && f.labels+f.fields != "" {
		return fmt.Errorf("%w: only one of NAME or selector can be provided", errUsage)
	}
	return nil
}

func newCtlTop(w IO) *cobra.Command {
	c := newGroup("top", "Show what uses the processors and the memory", newCtlTopNode(w), newCtlTopPods(w))
	c.Long = "Show what uses the processors and the memory, as the kubelet measured it in the last seconds. Flags and output are kubectl's,\n" +
		"but for --show-swap: swap is not measured."
	return c
}

func newCtlTopNode(w IO) *cobra.Command {
	var f topFlags
	var capacity bool
	c := &cobra.Command{
		Use: "node [NAME]", Aliases: []string{"nodes", "no"}, Short: "What the whole machine uses",
		Args: expects("one node at most", cobra.MaximumNArgs(1)),
	}
	f.here(c)
	f.shown(c)
	c.Flags().BoolVar(&capacity, "show-capacity", false, "of all that the machine has, and not of what pods may use")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		list, err := g.measure(ctx, &f, append([]string{"nodes"}, args...)...)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errNotMeasured
		}
		var used []metrics.NodeMetrics
		whole := map[string]corev1.ResourceList{}
		for _, m := range list {
			node, err := g.client.CoreV1().Nodes().Get(ctx, m.Metadata.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			used = append(used, metrics.NodeMetrics{ObjectMeta: m.Metadata, Usage: m.Usage})
			whole[node.Name] = node.Status.Allocatable
			if capacity {
				whole[node.Name] = node.Status.Capacity
			}
		}
		return metricsutil.NewTopCmdPrinter(w.Out, false).PrintNodeMetrics(used, whole, f.noHeaders, f.sortBy)
	})
	return c
}

func newCtlTopPods(w IO) *cobra.Command {
	var f topFlags
	var containers, sum bool
	c := &cobra.Command{
		Use: "pods [NAME]", Aliases: []string{"pod", "po"}, Short: "What each pod uses",
		Args: expects("one pod at most", cobra.MaximumNArgs(1)),
	}
	f.inAny(c)
	f.shown(c)
	c.Flags().StringVar(&f.fields, "field-selector", "", "only those with these fields, such as metadata.name=web-0")
	c.Flags().BoolVar(&containers, "containers", false, "each container by itself")
	c.Flags().BoolVar(&sum, "sum", false, "with the sum below")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		path := []string{"pods"}
		if space := f.spaces(); space != "" {
			path = []string{"namespaces", space, "pods"}
		}
		if len(args) == 1 && f.all {
			return fmt.Errorf("%w: a pod's name goes with one namespace: say -n instead of -A", errUsage)
		}
		list, err := g.measure(ctx, &f, append(path, args...)...)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return g.notMeasured(ctx, w, &f)
		}
		var used []metrics.PodMetrics
		for _, m := range list {
			used = append(used, metrics.PodMetrics{ObjectMeta: m.Metadata, Containers: m.Containers})
		}
		return metricsutil.NewTopCmdPrinter(w.Out, false).PrintPodMetrics(used, containers, f.all, f.noHeaders, f.sortBy, sum)
	})
	return c
}

// notMeasured tells pods that were not measured yet from none.
func (g *gateway) notMeasured(ctx context.Context, w IO, f *topFlags) error {
	pods, err := g.client.CoreV1().Pods(f.spaces()).List(ctx, metav1.ListOptions{LabelSelector: f.labels, FieldSelector: f.fields})
	if err != nil {
		return err
	}
	if len(pods.Items) > 0 {
		return errNotMeasured
	}
	f.none(w, false)
	return nil
}

// measure asks the local API, which asks the kubelet.
func (g *gateway) measure(ctx context.Context, f *topFlags, path ...string) ([]measured, error) {
	r := g.client.Discovery().RESTClient().Get().AbsPath(append([]string{"/apis/metrics.k8s.io/v1beta1"}, path...)...)
	if f.labels != "" {
		r = r.Param("labelSelector", f.labels)
	}
	if f.fields != "" {
		r = r.Param("fieldSelector", f.fields)
	}
	b, err := raw(ctx, r)
	if err != nil {
		return nil, err
	}
	m := &measured{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("expected the use of %s: %w", strings.Join(path, "/"), err)
	}
	if m.Metadata.Name != "" {
		return []measured{*m}, nil
	}
	return m.Items, nil
}
