package keadm

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/tether-edge/tether/common/object"
)

// events adds what happened to an object, oldest first.
func (g *gateway) events(ctx context.Context, d *description, o metav1.Object, kind string, now time.Time) error {
	selector := fields.Set{"involvedObject.kind": kind, "involvedObject.name": o.GetName()}
	if o.GetNamespace() != "" {
		selector["involvedObject.namespace"] = o.GetNamespace()
	}
	list, err := g.client.CoreV1().Events(o.GetNamespace()).List(ctx, metav1.ListOptions{FieldSelector: selector.AsSelector().String()})
	if err != nil {
		return err
	}
	last := func(e *corev1.Event) time.Time {
		return cmp.Or(e.LastTimestamp, e.FirstTimestamp, e.CreationTimestamp).Time
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return last(&a).Compare(last(&b)) })
	if len(list.Items) == 0 {
		d.say(0, "Events", "<none>")
		return nil
	}
	d.say(0, "Events", "")
	rows := [][]string{{"Type", "Reason", "Age", "Message"}}
	for _, e := range list.Items {
		age := duration.HumanDuration(now.Sub(last(&e)))
		if e.Count > 1 {
			age = fmt.Sprintf("%s (x%d)", age, e.Count)
		}
		rows = append(rows, []string{e.Type, e.Reason, age, strings.TrimSpace(e.Message)})
	}
	d.table(rows)
	return nil
}

// A description is a text of names with values, one below another.
type description struct{ lines []string }

// say adds a name and its value.
func (d *description) say(depth int, name, value string) {
	d.lines = append(d.lines, strings.Repeat("  ", depth)+name+":\t"+value)
}

// table adds rows.
func (d *description) table(rows [][]string) {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // into memory
	for l := range strings.Lines(b.String()) {
		d.lines = append(d.lines, "  "+strings.TrimRight(l, " \n"))
	}
}

func (d *description) write(out io.Writer) error {
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, l := range d.lines {
		// What containers and clients wrote must not move the terminal of whoever reads it.
		fmt.Fprintln(tw, printers.EscapeTerminal(strings.TrimSuffix(l, "\t")))
	}
	return tw.Flush()
}

// pairs adds labels or annotations, sorted.
func (d *description) pairs(name string, m map[string]string) {
	if len(m) == 0 {
		d.say(0, name, "<none>")
	}
	for i, k := range slices.Sorted(maps.Keys(m)) {
		value := m[k]
		if len(value) > 140 {
			value = value[:140] + "..."
		}
		if i > 0 {
			d.lines = append(d.lines, "\t"+k+"="+value)
			continue
		}
		d.say(0, name, k+"="+value)
	}
}

func when(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return moment(t.Time, now)
}

func (d *description) pod(p *corev1.Pod, now time.Time) {
	d.say(0, "Name", p.Name)
	d.say(0, "Namespace", p.Namespace)
	d.say(0, "Node", p.Spec.NodeName)
	d.say(0, "Created", when(p.CreationTimestamp, now))
	if p.DeletionTimestamp != nil {
		d.say(0, "Ends", fmt.Sprintf("asked to at %s, grace period %d s", when(*p.DeletionTimestamp, now), *cmp.Or(p.DeletionGracePeriodSeconds, new(int64(0)))))
	}
	switch p.Annotations[object.AnnotationKept] {
	case object.KeptHeld:
		d.say(0, "Held", "the cluster has lost this node; the pod runs on")
	case object.KeptStandIn:
		d.say(0, "Stand-in For", p.Annotations[object.AnnotationStandInFor]+", which ended while the cluster could not hear of it")
	case object.KeptWithheld:
		d.say(0, "Withheld", "the kubelet does not run the pod: it is fenced, or waits for the place of another")
	}
	d.pairs("Labels", p.Labels)
	d.pairs("Annotations", p.Annotations)
	status := string(p.Status.Phase)
	for _, s := range []string{p.Status.Reason, p.Status.Message} {
		if s != "" {
			status += ", " + s
		}
	}
	d.say(0, "Status", status)
	d.say(0, "IP", cmp.Or(p.Status.PodIP, "<none>"))
	if owner := metav1.GetControllerOf(p); owner != nil {
		d.say(0, "Controlled By", owner.Kind+"/"+owner.Name)
	}
	d.say(0, "Restart Policy", string(p.Spec.RestartPolicy))
	d.say(0, "QoS Class", string(p.Status.QOSClass))
	d.containers("Init Containers", p.Spec.InitContainers, p.Status.InitContainerStatuses, now)
	d.containers("Containers", p.Spec.Containers, p.Status.ContainerStatuses, now)
	rows := [][]string{{"Type", "Status", "Since", "Reason"}}
	for _, c := range p.Status.Conditions {
		rows = append(rows, []string{string(c.Type), string(c.Status), duration.HumanDuration(now.Sub(c.LastTransitionTime.Time)), told(c.Reason, c.Message)})
	}
	d.say(0, "Conditions", "")
	d.table(rows)
	d.volumes(p.Spec.Volumes)
}

// told is a reason and what is said of it.
func told(reason, message string) string {
	if reason == "" || message == "" {
		return reason + message
	}
	return reason + ": " + message
}

func (d *description) containers(title string, specs []corev1.Container, statuses []corev1.ContainerStatus, now time.Time) {
	if len(specs) == 0 {
		return
	}
	d.say(0, title, "")
	for _, c := range specs {
		d.say(1, c.Name, "")
		d.say(2, "Image", c.Image)
		i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == c.Name })
		if i < 0 {
			d.say(2, "State", "not reported yet")
		} else {
			s := statuses[i]
			d.say(2, "Container ID", s.ContainerID)
			d.say(2, "State", state(s.State, now))
			if last := s.LastTerminationState; last != (corev1.ContainerState{}) {
				d.say(2, "Last State", state(last, now))
			}
			d.say(2, "Ready", fmt.Sprint(s.Ready))
			d.say(2, "Restart Count", fmt.Sprint(s.RestartCount))
		}
		if len(c.Command)+len(c.Args) > 0 {
			d.say(2, "Command", strings.Join(append(slices.Clone(c.Command), c.Args...), " "))
		}
		var ports []string
		for _, p := range c.Ports {
			ports = append(ports, fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol))
		}
		if len(ports) > 0 {
			d.say(2, "Ports", strings.Join(ports, ", "))
		}
		d.resources("Limits", c.Resources.Limits)
		d.resources("Requests", c.Resources.Requests)
		for _, m := range c.VolumeMounts {
			d.say(2, "Mount", m.MountPath+" from "+m.Name)
		}
	}
}

func (d *description) resources(name string, list corev1.ResourceList) {
	var all []string
	for _, r := range slices.Sorted(maps.Keys(list)) {
		q := list[r]
		all = append(all, string(r)+"="+q.String())
	}
	if len(all) > 0 {
		d.say(2, name, strings.Join(all, ", "))
	}
}

// state tells how a container is, or how it ended.
func state(s corev1.ContainerState, now time.Time) string {
	switch {
	case s.Running != nil:
		return "Running since " + when(s.Running.StartedAt, now)
	case s.Terminated != nil:
		t := s.Terminated
		text := fmt.Sprintf("Terminated at %s, exit code %d", when(t.FinishedAt, now), t.ExitCode)
		if said := told(t.Reason, t.Message); said != "" {
			text += ", " + said
		}
		return text
	case s.Waiting != nil:
		return "Waiting, " + told(s.Waiting.Reason, s.Waiting.Message)
	}
	return "Waiting"
}

// volumes names each volume with what it is made from.
func (d *description) volumes(list []corev1.Volume) {
	if len(list) == 0 {
		return
	}
	d.say(0, "Volumes", "")
	for _, v := range list {
		from := "of another kind"
		switch {
		case v.ConfigMap != nil:
			from = "ConfigMap " + v.ConfigMap.Name
		case v.Secret != nil:
			from = "Secret " + v.Secret.SecretName
		case v.PersistentVolumeClaim != nil:
			from = "PersistentVolumeClaim " + v.PersistentVolumeClaim.ClaimName
		case v.HostPath != nil:
			from = "this machine's " + v.HostPath.Path
		case v.EmptyDir != nil:
			from = "an empty directory that lasts as long as the pod"
		case v.Projected != nil:
			from = "tokens and other things projected into files"
		case v.DownwardAPI != nil:
			from = "the pod's own fields"
		case v.CSI != nil:
			from = "CSI driver " + v.CSI.Driver
		}
		d.say(1, v.Name, from)
	}
}

func (d *description) node(n *corev1.Node, pods []corev1.Pod, now time.Time) {
	d.say(0, "Name", n.Name)
	d.say(0, "Created", when(n.CreationTimestamp, now))
	d.pairs("Labels", n.Labels)
	d.pairs("Annotations", n.Annotations)
	var taints []string
	for _, t := range n.Spec.Taints {
		taints = append(taints, t.ToString())
	}
	d.say(0, "Taints", cmp.Or(strings.Join(taints, ", "), "<none>"))
	d.say(0, "Unschedulable", fmt.Sprint(n.Spec.Unschedulable))
	rows := [][]string{{"Type", "Status", "Since", "Heard", "Reason"}}
	for _, c := range n.Status.Conditions {
		rows = append(rows, []string{string(c.Type), string(c.Status), duration.HumanDuration(now.Sub(c.LastTransitionTime.Time)),
			duration.HumanDuration(now.Sub(c.LastHeartbeatTime.Time)), told(c.Reason, c.Message)})
	}
	d.say(0, "Conditions", "")
	d.table(rows)
	for _, a := range n.Status.Addresses {
		d.say(0, string(a.Type), a.Address)
	}
	rows = [][]string{{"Resource", "Capacity", "Allocatable"}}
	for _, r := range slices.Sorted(maps.Keys(n.Status.Capacity)) {
		all, free := n.Status.Capacity[r], n.Status.Allocatable[r]
		rows = append(rows, []string{string(r), all.String(), free.String()})
	}
	d.say(0, "Resources", "")
	d.table(rows)
	info := n.Status.NodeInfo
	d.say(0, "Kubelet", info.KubeletVersion)
	d.say(0, "Runtime", info.ContainerRuntimeVersion)
	d.say(0, "System", info.OSImage+", Linux "+info.KernelVersion+", "+info.Architecture)
	rows = [][]string{{"Namespace", "Name", "Status", "CPU Requests", "Memory Requests", "Memory Limits"}}
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName == n.Name {
			rows = append(rows, append([]string{p.Namespace, p.Name, string(p.Status.Phase)}, demands(p)...))
		}
	}
	d.say(0, "Pods", fmt.Sprint(len(rows)-1))
	d.table(rows)
}

// demands sums up what the containers of a pod ask for: CPU requests, memory requests, memory limits.
func demands(p *corev1.Pod) []string {
	sum := func(of func(corev1.ResourceRequirements) corev1.ResourceList, r corev1.ResourceName) string {
		total := of(corev1.ResourceRequirements{})[r]
		for _, c := range p.Spec.Containers {
			total.Add(of(c.Resources)[r])
		}
		return total.String()
	}
	requests := func(r corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }
	limits := func(r corev1.ResourceRequirements) corev1.ResourceList { return r.Limits }
	return []string{sum(requests, corev1.ResourceCPU), sum(requests, corev1.ResourceMemory), sum(limits, corev1.ResourceMemory)}
}
