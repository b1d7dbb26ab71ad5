package kubeapi

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// tableOf returns what `kubectl get` prints of a kind: the columns that people know for what they look at most, name and
// creation time for the rest.
func tableOf(r *resource) rest.TableConvertor {
	switch r.kind.ID() {
	case object.Pods:
		return columns{clock: r.s.deps.Clock, heads: podHeads, cells: podCells}
	case object.Nodes:
		return columns{clock: r.s.deps.Clock, heads: nodeHeads, cells: nodeCells}
	case object.Events:
		return columns{clock: r.s.deps.Clock, heads: eventHeads, cells: eventCells}
	case object.ConfigMaps:
		return columns{clock: r.s.deps.Clock, heads: configMapHeads, cells: configMapCells}
	case object.Secrets:
		return columns{clock: r.s.deps.Clock, heads: secretHeads, cells: secretCells}
	case object.Devices:
		return columns{clock: r.s.deps.Clock, heads: deviceHeads, cells: r.s.deviceCells}
	case object.DeviceModels:
		return columns{clock: r.s.deps.Clock, heads: deviceModelHeads, cells: deviceModelCells}
	case object.DeviceStatuses:
		return columns{clock: r.s.deps.Clock, heads: deviceStatusHeads, cells: deviceStatusCells}
	}
	return rest.NewDefaultTableConvertor(r.groupResource())
}

// columns makes tables of one kind.
type columns struct {
	clock Clock
	heads []metav1.TableColumnDefinition
	cells func(o runtime.Object, now time.Time) []any
}

func head(name, kind string, priority int32) metav1.TableColumnDefinition {
	h := metav1.TableColumnDefinition{Name: name, Type: kind, Priority: priority}
	if name == "Name" {
		h.Format = "name"
	}
	return h
}

// ConvertToTable implements rest.TableConvertor.
func (c columns) ConvertToTable(_ context.Context, o, opts runtime.Object) (*metav1.Table, error) {
	t := &metav1.Table{}
	if o, ok := opts.(*metav1.TableOptions); !ok || o == nil || !o.NoHeaders {
		t.ColumnDefinitions = c.heads
	}
	now := c.clock.Now()
	row := func(o runtime.Object) error {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: c.cells(o, now), Object: runtime.RawExtension{Object: o}})
		return nil
	}
	if list, err := meta.ListAccessor(o); err == nil && meta.IsListType(o) {
		t.ResourceVersion = list.GetResourceVersion()
		if err := meta.EachListItem(o, row); err != nil {
			return nil, fmt.Errorf("make a table: %w", err)
		}
		return t, nil
	}
	if acc, err := meta.Accessor(o); err == nil {
		t.ResourceVersion = acc.GetResourceVersion()
	}
	return t, row(o)
}

// ageOf is the time since t as kubectl shows it.
func ageOf(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

var podHeads = []metav1.TableColumnDefinition{
	head("Name", "string", 0), head("Ready", "string", 0), head("Status", "string", 0), head("Restarts", "string", 0),
	head("Age", "string", 0), head("IP", "string", 1), head("Node", "string", 1), head("Nominated Node", "string", 1),
	head("Readiness Gates", "string", 1),
}

func podCells(o runtime.Object, now time.Time) []any {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return make([]any, len(podHeads)) // a bookmark, or an object of a stream that ends
	}
	ready, total := 0, len(p.Spec.Containers)
	for _, c := range p.Status.ContainerStatuses {
		if c.Ready && c.State.Running != nil {
			ready++
		}
	}
	for i := range p.Spec.InitContainers {
		if isSidecar(p, p.Spec.InitContainers[i].Name) {
			total++
		}
	}
	for _, c := range p.Status.InitContainerStatuses {
		if isSidecar(p, c.Name) && c.Ready && c.Started != nil && *c.Started {
			ready++
		}
	}
	return []any{
		p.Name, fmt.Sprintf("%d/%d", ready, total), podState(p), restarts(p, now),
		ageOf(p.CreationTimestamp, now), orNone(p.Status.PodIP), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName),
		gates(p),
	}
}

// isSidecar reports whether an init container runs beside the others.
func isSidecar(p *corev1.Pod, name string) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

// podState is the state of a pod, and how it is kept where the cluster has it otherwise.
func podState(p *corev1.Pod) string {
	switch how := p.Annotations[object.AnnotationKept]; how {
	case "":
		return podReason(p)
	case object.KeptWithheld: // what the kubelet last said of it is no longer so
		return "Withheld"
	default:
		return podReason(p) + " (" + how + ")"
	}
}

// podReason is one word for the state of a pod: that of the container that holds it up, if one does.
func podReason(p *corev1.Pod) string {
	over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	if p.DeletionTimestamp != nil && !over {
		return "Terminating"
	}
	reason := string(p.Status.Phase)
	if p.Status.Reason != "" {
		reason = p.Status.Reason
	}
	if i := slices.IndexFunc(p.Status.InitContainerStatuses, initPending); i >= 0 {
		return initReason(p, i)
	}
	running, failed := false, ""
	for _, c := range slices.Backward(p.Status.ContainerStatuses) {
		if r := containerReason(c.State); r != "" {
			reason = r
			if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
				failed = r
			}
		} else if c.Ready && c.State.Running != nil {
			running = true
		}
	}
	switch {
	case reason != "Completed":
		return reason
	case running && isTrue(p.Status.Conditions, corev1.PodReady):
		return "Running"
	case failed != "":
		return failed
	case running:
		return "NotReady"
	}
	return reason
}

func isTrue(conditions []corev1.PodCondition, t corev1.PodConditionType) bool {
	return slices.ContainsFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
}

// containerReason is why a container does not run, or "".
func containerReason(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Terminated == nil:
		return ""
	case s.Terminated.Reason != "":
		return s.Terminated.Reason
	case s.Terminated.Signal != 0:
		return fmt.Sprintf("Signal:%d", s.Terminated.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", s.Terminated.ExitCode)
}

// initPending says whether an init container has still to finish (a sidecar: to start).
func initPending(c corev1.ContainerStatus) bool {
	done := c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
	return !done && (c.Started == nil || !*c.Started)
}

func initReason(p *corev1.Pod, i int) string {
	if r := containerReason(p.Status.InitContainerStatuses[i].State); r != "" && r != "PodInitializing" {
		return "Init:" + r
	}
	return fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
}

// restarts counts those of the containers that run for good, or of the init containers while these hold the pod up.
func restarts(p *corev1.Pod, now time.Time) string {
	starting := slices.ContainsFunc(p.Status.InitContainerStatuses, initPending)
	n, last := int32(0), metav1.Time{}
	add := func(c *corev1.ContainerStatus) {
		n += c.RestartCount
		if t := c.LastTerminationState.Terminated; t != nil && last.Before(&t.FinishedAt) {
			last = t.FinishedAt
		}
	}
	for i := range p.Status.InitContainerStatuses {
		if c := &p.Status.InitContainerStatuses[i]; starting || isSidecar(p, c.Name) {
			add(c)
		}
	}
	for i := range p.Status.ContainerStatuses {
		if !starting {
			add(&p.Status.ContainerStatuses[i])
		}
	}
	if n == 0 || last.IsZero() {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d (%s ago)", n, ageOf(last, now))
}

func gates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	met := 0
	for _, g := range p.Spec.ReadinessGates {
		if isTrue(p.Status.Conditions, g.ConditionType) {
			met++
		}
	}
	return fmt.Sprintf("%d/%d", met, len(p.Spec.ReadinessGates))
}

var nodeHeads = []metav1.TableColumnDefinition{
	head("Name", "string", 0), head("Status", "string", 0), head("Roles", "string", 0), head("Age", "string", 0),
	head("Version", "string", 0), head("Internal-IP", "string", 1), head("External-IP", "string", 1),
	head("OS-Image", "string", 1), head("Kernel-Version", "string", 1), head("Container-Runtime", "string", 1),
}

func nodeCells(o runtime.Object, now time.Time) []any {
	n, ok := o.(*corev1.Node)
	if !ok {
		return make([]any, len(nodeHeads))
	}
	info := n.Status.NodeInfo
	kernel := cmp.Or(info.KernelVersion, "<unknown>")
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, nodeState(n), nodeRoles(n), ageOf(n.CreationTimestamp, now), info.KubeletVersion,
		address(n, corev1.NodeInternalIP), address(n, corev1.NodeExternalIP),
		cmp.Or(info.OSImage, "<unknown>"), kernel, cmp.Or(info.ContainerRuntimeVersion, "<unknown>"),
	}
}

func nodeState(n *corev1.Node) string {
	state := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			state = "NotReady"
			if c.Status == corev1.ConditionTrue {
				state = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	return state
}

func nodeRoles(n *corev1.Node) string {
	const prefix = "node-role.kubernetes.io/"
	var roles []string
	for k := range n.Labels {
		if role, ok := strings.CutPrefix(k, prefix); ok && role != "" {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return orNone(strings.Join(roles, ","))
}

func address(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return "<none>"
}
