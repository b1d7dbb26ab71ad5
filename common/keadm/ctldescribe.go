package keadm

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// describeFlags are what describe is asked for.
type describeFlags struct {
	ctlFlags
	labels string
	events bool
}

func newCtlDescribe(w IO) *cobra.Command {
	var f describeFlags
	c := &cobra.Command{
		Use:   "describe KIND [NAME...] | describe KIND/NAME...",
		Short: "Tell about pods, the node or devices: how they are, why, and what happened lately",
		Long: "Tell about pods, the node or devices: how they are, why, and what happened in the last hour (the node keeps recent events\n" +
			"itself). Of a device: what is desired of each property, what it reported and when, and whether its mapper is connected.\n" +
			"The text is shorter than kubectl's, and names are whole. Other kinds: 'keadm ctl get KIND NAME -o yaml'.",
		Example: "  keadm ctl describe pod web-0\n" +
			"  keadm ctl describe pods -A -l app=web\n" +
			"  keadm ctl describe node\n" +
			"  keadm ctl describe device pump-1",
		Args: usage(func(_ *cobra.Command, args []string) error {
			list, err := described(args)
			if err == nil && f.labels != "" && list[0].name != "" {
				err = fmt.Errorf("name cannot be provided when a selector is specified, found %s and -l %s", list[0].name, f.labels)
			}
			return err
		}),
	}
	f.inAny(c)
	c.Flags().StringVarP(&f.labels, "selector", "l", "", "those with these labels, such as app=web,tier!=db")
	c.Flags().BoolVar(&f.events, "show-events", true, "with what happened to them lately")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		asked, err := described(args)
		if err != nil {
			return err
		}
		var list []subject
		for _, s := range asked {
			more, err := g.subjects(ctx, &f, s)
			if err != nil {
				return err
			}
			list = append(list, more...)
		}
		if len(list) == 0 {
			f.none(w, asked[0].kind == "node")
		}
		for i, s := range list {
			if i > 0 {
				fmt.Fprint(w.Out, "\n\n")
			}
			if err := g.describe(ctx, w.Out, &f, s, w.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

// A subject is what a description is about: a pod, a node or a device. Without a name it is all of its kind.
type subject struct{ kind, namespace, name string }

// described reads KIND [NAME...] or KIND/NAME....
func described(args []string) (list []subject, err error) {
	kinds := map[string]string{"pod": "pod", "pods": "pod", "po": "pod", "node": "node", "nodes": "node", "no": "node", "device": "device", "devices": "device", "dev": "device"}
	slashed := len(args) > 0 && strings.Contains(args[0], "/")
	for i, arg := range args {
		kind, name := args[0], arg
		if slashed {
			kind, name, _ = strings.Cut(arg, "/")
		} else if i == 0 && len(args) > 1 {
			continue
		} else if len(args) == 1 {
			name = ""
		}
		if kinds[kind] == "" || slashed && name == "" || strings.Contains(name, "/") {
			list = nil
			break
		}
		list = append(list, subject{kind: kinds[kind], name: name})
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("expected pod, node or device and names, found %q; for others: keadm ctl get KIND NAME -o yaml", strings.Join(args, " "))
	}
	return list, nil
}

// subjects finds those that are meant by one.
func (g *gateway) subjects(ctx context.Context, f *describeFlags, s subject) (list []subject, err error) {
	if s.name != "" {
		if f.all && s.kind != "node" {
			return nil, fmt.Errorf("%w: a name goes with one namespace: say -n instead of -A", errUsage)
		}
		s.namespace = f.namespace
		return []subject{s}, nil
	}
	path := map[string][]string{"pod": {"/api/v1"}, "node": {"/api/v1"}, "device": {"/apis", v1beta1.GroupVersion.Group, v1beta1.GroupVersion.Version}}[s.kind]
	if space := f.spaces(); space != "" && s.kind != "node" {
		path = append(path, "namespaces", space)
	}
	var found metav1.PartialObjectMetadataList
	if err := g.readInto(ctx, &found, f.labels, append(path, s.kind+"s")...); err != nil {
		return nil, err
	}
	for _, o := range found.Items {
		list = append(list, subject{s.kind, o.Namespace, o.Name})
	}
	return list, nil
}

// describe writes about one.
func (g *gateway) describe(ctx context.Context, out io.Writer, f *describeFlags, s subject, now time.Time) error {
	var d description
	var about metav1.Object
	kind := ""
	switch s.kind {
	case "device":
		device, status, err := g.device(ctx, s.namespace, s.name)
		if err != nil {
			return err
		}
		d.device(device, status, now)
		about, kind = device, v1beta1.DeviceKind
	case "pod":
		pod, err := g.client.CoreV1().Pods(s.namespace).Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.pod(pod, now)
		about, kind = pod, "Pod"
	default:
		node, err := g.client.CoreV1().Nodes().Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := g.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		d.node(node, pods.Items, now)
		about, kind = node, "Node"
	}
	if f.events {
		if err := g.events(ctx, &d, about, kind, now); err != nil {
			return err
		}
	}
	return d.write(out)
}
