package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// measured is a NodeMetrics or a PodMetrics of metrics.k8s.io, or a list of them.
type measured struct {
	Metadata   metav1.ObjectMeta   `json:"metadata"`
	Usage      corev1.ResourceList `json:"usage"`
	Containers []usedByContainer   `json:"containers"`
	Items      []measured          `json:"items"`
}

type usedByContainer struct {
	Name  string              `json:"name"`
	Usage corev1.ResourceList `json:"usage"`
}

// total is the sum of the containers, in thousandths of a processor and in MiB.
func (m *measured) total() (cpu, memory int64) {
	for _, c := range m.Containers {
		cpu += c.Usage.Cpu().MilliValue()
		memory += c.Usage.Memory().Value()
	}
	return cpu, memory >> 20
}

func newCtlTop(w IO) *cobra.Command {
	c := newGroup("top", "Show what uses the processors and the memory", newCtlTopNode(w), newCtlTopPods(w))
	c.Long = "Show what uses the processors and the memory, as the kubelet measured it in the last seconds."
	return c
}

func newCtlTopNode(w IO) *cobra.Command {
	var f ctlFlags
	c := &cobra.Command{Use: "node", Aliases: []string{"nodes", "no"}, Short: "What the whole machine uses", Args: usage(cobra.NoArgs)}
	f.here(c)
	c.RunE = f.on(func(ctx context.Context, g *gateway, _ []string) error {
		m, err := g.measure(ctx, "nodes", g.cfg.NodeName)
		if err != nil {
			return err
		}
		node, err := g.client.CoreV1().Nodes().Get(ctx, g.cfg.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		cpu, memory := m.Usage.Cpu().MilliValue(), m.Usage.Memory().Value()
		return show(w.Out, "", nil, func(t io.Writer) {
			row(t, "NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)")
			row(t, node.Name, fmt.Sprintf("%dm", cpu), percent(cpu, node.Status.Allocatable.Cpu().MilliValue()),
				fmt.Sprintf("%dMi", memory>>20), percent(memory, node.Status.Allocatable.Memory().Value()))
		})
	})
	return c
}

// percent of what pods may use.
func percent(part, whole int64) string {
	if whole == 0 {
		return "<unknown>"
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}

func newCtlTopPods(w IO) *cobra.Command {
	var f ctlFlags
	var containers bool
	c := &cobra.Command{Use: "pods [NAME]", Aliases: []string{"pod", "po"}, Short: "What each pod uses", Args: expects("one pod at most", cobra.MaximumNArgs(1))}
	f.inAny(c)
	c.Flags().BoolVar(&containers, "containers", false, "each container by itself")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		path := []string{"pods"}
		if space := f.spaces(); space != "" {
			path = []string{"namespaces", space, "pods"}
		}
		if len(args) == 1 && f.all {
			return fmt.Errorf("%w: a pod's name goes with one namespace", errUsage)
		}
		m, err := g.measure(ctx, append(path, args...)...)
		if err != nil {
			return err
		}
		list := m.Items
		if len(args) == 1 {
			list = []measured{*m}
		}
		if len(list) == 0 {
			return errors.New("no pod is measured yet: the kubelet does so some seconds after a container's start")
		}
		slices.SortFunc(list, func(a, b measured) int {
			return strings.Compare(a.Metadata.Namespace+"/"+a.Metadata.Name, b.Metadata.Namespace+"/"+b.Metadata.Name)
		})
		return show(w.Out, "", nil, func(t io.Writer) { writeUsage(t, list, f.all, containers) })
	})
	return c
}

// writeUsage writes a row for each pod, or for each container.
func writeUsage(t io.Writer, list []measured, spaces, containers bool) {
	put := func(space string, cells ...any) {
		if spaces {
			cells = append([]any{space}, cells...)
		}
		row(t, cells...)
	}
	if containers {
		put("NAMESPACE", "POD", "NAME", "CPU(cores)", "MEMORY(bytes)")
	} else {
		put("NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)")
	}
	for _, m := range list {
		if containers {
			slices.SortFunc(m.Containers, func(a, b usedByContainer) int { return strings.Compare(a.Name, b.Name) })
			for _, c := range m.Containers {
				put(m.Metadata.Namespace, m.Metadata.Name, c.Name, fmt.Sprintf("%dm", c.Usage.Cpu().MilliValue()), fmt.Sprintf("%dMi", c.Usage.Memory().Value()>>20))
			}
			continue
		}
		cpu, memory := m.total()
		put(m.Metadata.Namespace, m.Metadata.Name, fmt.Sprintf("%dm", cpu), fmt.Sprintf("%dMi", memory))
	}
}

// measure asks the local API, which asks the kubelet.
func (g *gateway) measure(ctx context.Context, path ...string) (*measured, error) {
	b, err := raw(ctx, g.client.Discovery().RESTClient().Get().AbsPath(append([]string{"/apis/metrics.k8s.io/v1beta1"}, path...)...))
	if err != nil {
		return nil, err
	}
	m := &measured{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("expected the use of %s: %w", strings.Join(path, "/"), err)
	}
	return m, nil
}
