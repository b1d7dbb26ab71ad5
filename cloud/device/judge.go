package device

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// Reasons of conditions, beside those of common/device.
const (
	// ReasonNoNode: the Device names no node. ReasonNodeNotFound: there is no Node of that name. ReasonNotAnEdge: it is no
	// edge's. They make Ready False.
	ReasonNoNode       = "NoNode"
	ReasonNodeNotFound = "NodeNotFound"
	ReasonNotAnEdge    = "NotAnEdge"
	// ReasonNodeOffline: the Node is not Ready, so nobody knows. Ready is Unknown.
	ReasonNodeOffline = "NodeOffline"
	// ReasonAwaitingReport: the node has not reported the device since it was made, or since it came to that node. All conditions are
	// Unknown.
	ReasonAwaitingReport = "AwaitingReport"
)

// AnnotationNode on a DeviceStatus is the node that reported it; absent while the node of the Device has not.
const AnnotationNode = "tether.io/node"

// nodeFault says what is wrong with the node of a device: one of the reasons above, or empty.
type nodeFault string

// faultOf judges a Node; nil where there is none of the name.
func faultOf(n *corev1.Node, isEdge func(*corev1.Node) bool) nodeFault {
	switch {
	case n == nil:
		return ReasonNodeNotFound
	case !isEdge(n):
		return ReasonNotAnEdge
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return ReasonNodeOffline
}

func (f nodeFault) message(node string) string {
	switch f {
	case ReasonNoNode:
		return "expected the name of an edge node in spec.nodeName, found none"
	case ReasonNodeNotFound:
		return fmt.Sprintf("expected Node %q of an edge, found none", node)
	case ReasonNotAnEdge:
		return fmt.Sprintf("expected the Node of an edge, found that Node %q is none", node)
	}
	return fmt.Sprintf("node %q is not Ready: what it last reported may have changed", node)
}

// A view is what a device is judged by.
type view struct {
	device *v1beta1.Device
	model  *v1beta1.DeviceModel // nil where there is none
	node   nodeFault
	// reported: the node of the device has reported it.
	reported bool
	// last is the seal of the last report that this CloudCore knows of.
	last seal
}

// ready is the Ready condition. What the operator has to mend comes first: it is also true of a node that is away.
func (v view) ready() metav1.Condition {
	c := metav1.Condition{Type: v1beta1.ConditionReady, Status: metav1.ConditionFalse, ObservedGeneration: v.device.Generation}
	found := device.Judge(v.device, v.model)
	if v.node != "" {
		found = append(found, device.Finding{Reason: string(v.node), Message: v.node.message(v.device.Spec.NodeName)})
	}
	c.Reason, c.Message = device.Summary(found)
	switch {
	case c.Reason == ReasonNodeOffline:
		c.Status = metav1.ConditionUnknown
	case len(found) == 0 && !v.reported:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, ReasonAwaitingReport, v.awaiting()
	case len(found) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, device.ReasonFits, "device and model fit together, and the node has the device"
	}
	return c
}

func (v view) awaiting() string {
	if v.device.Spec.NodeName == "" {
		return "no node reports the device"
	}
	return fmt.Sprintf("node %q has not reported the device yet", v.device.Spec.NodeName)
}

// desire returns the DeviceStatus as it should be. current is the one that is there, nil if none; report is the node's newest,
// nil if there is nothing new. What is not CloudCore's to say, such as extensions, stays as it is.
func desire(v view, current *v1beta1.DeviceStatus, report *Report, now time.Time) (*v1beta1.DeviceStatus, error) {
	s := &v1beta1.DeviceStatus{TypeMeta: metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceStatusKind}}
	s.Namespace, s.Name = v.device.Namespace, v.device.Name
	if current != nil {
		s = current.DeepCopy()
	}
	node := v.device.Spec.NodeName
	// Without our owner reference it is somebody else's, and what it says is of another device.
	v.reported = report != nil || node != "" && reporter(current) == node && ownedBy(current, v.device)
	if !ownedBy(current, v.device) {
		s.OwnerReferences = append(s.OwnerReferences, ownerReference(v.device))
	}
	says := s.Status.Conditions
	s.Status.Conditions = nil
	set := func(c metav1.Condition) { s.Status.Conditions = append(s.Status.Conditions, carry(says, c, now)) }
	set(v.ready())
	if reason, text := device.JudgePushes(v.device); reason != "" {
		set(metav1.Condition{Type: v1beta1.ConditionPushSupported, Status: metav1.ConditionFalse, Reason: reason, Message: text, ObservedGeneration: v.device.Generation})
	}
	switch {
	case !v.reported:
		delete(s.Annotations, AnnotationNode)
		delete(s.Annotations, AnnotationReport)
		for _, t := range edgeConditions {
			set(metav1.Condition{Type: t, Status: metav1.ConditionUnknown, Reason: ReasonAwaitingReport, Message: v.awaiting(), ObservedGeneration: v.device.Generation})
		}
	case report != nil:
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, AnnotationNode, node)
		s.Status.Twins, s.Status.State, s.Status.LastOnlineTime = report.Twins, report.State, report.LastOnlineTime
		for _, c := range report.Conditions {
			set(c)
		}
	}
	for _, c := range says { // those of others, and what the node reported before
		if c.Type != v1beta1.ConditionPushSupported && indexOf(s.Status.Conditions, c.Type) < 0 && (report == nil || !slices.Contains(edgeConditions, c.Type)) {
			s.Status.Conditions = append(s.Status.Conditions, c)
		}
	}
	// One order, whoever writes: else two CloudCores would find a difference in each other's.
	slices.SortFunc(s.Status.Conditions, func(a, b metav1.Condition) int { return strings.Compare(a.Type, b.Type) })
	if report == nil {
		return s, nil
	}
	return s, v.last.put(s, current)
}

// carry gives a condition the time of its last transition.
func carry(before []metav1.Condition, c metav1.Condition, now time.Time) metav1.Condition {
	now = now.Truncate(time.Second) // as the API server keeps it
	if i := indexOf(before, c.Type); i >= 0 && before[i].Status == c.Status {
		c.LastTransitionTime = before[i].LastTransitionTime
	} else if t := c.LastTransitionTime; t.IsZero() || t.After(now) {
		c.LastTransitionTime = metav1.NewTime(now)
	} else {
		c.LastTransitionTime = metav1.NewTime(t.Truncate(time.Second))
	}
	return c
}

func indexOf(all []metav1.Condition, t string) int {
	return slices.IndexFunc(all, func(c metav1.Condition) bool { return c.Type == t })
}

// reporter is the node that reported s, empty if none.
func reporter(s *v1beta1.DeviceStatus) string {
	if s == nil {
		return ""
	}
	return s.Annotations[AnnotationNode]
}

// ownedBy says whether the Device's present incarnation is the controller of s.
func ownedBy(s *v1beta1.DeviceStatus, d *v1beta1.Device) bool {
	if s == nil {
		return false
	}
	c := metav1.GetControllerOf(s)
	return c != nil && c.UID == d.UID
}

// ownerReference lets the garbage collector delete the status after the device. It holds up no deletion of the device: that would need
// another right.
func ownerReference(d *v1beta1.Device) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceKind, Name: d.Name, UID: d.UID, Controller: new(true)}
}
