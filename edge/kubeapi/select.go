package kubeapi

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tether-edge/tether/common/object"
)

// selectable lists, by kind, the fields beside name and namespace that selectors may use. They are those of the API
// server (pkg/apis/core/v1 in k8s.io/kubernetes); kinds that are not listed select by name and namespace alone.
var selectable = map[string][]string{
	"Pod": {
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
	},
	"Node":    {"spec.unschedulable"},
	"Service": {"spec.clusterIP", "spec.type"},
	"Secret":  {"type"},
	"Event": {
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	},
}

// selectableFields returns the values of o that a field selector may ask for.
func selectableFields(o object.Object) fields.Set {
	set := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	switch v := o.(type) {
	case *corev1.Pod:
		set["spec.nodeName"] = v.Spec.NodeName
		set["spec.restartPolicy"] = string(v.Spec.RestartPolicy)
		set["spec.schedulerName"] = v.Spec.SchedulerName
		set["spec.serviceAccountName"] = v.Spec.ServiceAccountName
		set["spec.hostNetwork"] = strconv.FormatBool(v.Spec.HostNetwork)
		set["status.phase"] = string(v.Status.Phase)
		set["status.podIP"], set["status.podIPs"] = v.Status.PodIP, v.Status.PodIP
		if len(v.Status.PodIPs) > 0 {
			set["status.podIP"], set["status.podIPs"] = v.Status.PodIPs[0].IP, v.Status.PodIPs[0].IP
		}
		set["status.nominatedNodeName"] = v.Status.NominatedNodeName
	case *corev1.Node:
		set["spec.unschedulable"] = strconv.FormatBool(v.Spec.Unschedulable)
	case *corev1.Service:
		set["spec.clusterIP"], set["spec.type"] = v.Spec.ClusterIP, string(v.Spec.Type)
	case *corev1.Secret:
		set["type"] = string(v.Type)
	case *corev1.Event:
		eventFields(set, v)
	}
	return set
}

func eventFields(set fields.Set, v *corev1.Event) {
	set["involvedObject.kind"] = v.InvolvedObject.Kind
	set["involvedObject.namespace"] = v.InvolvedObject.Namespace
	set["involvedObject.name"] = v.InvolvedObject.Name
	set["involvedObject.uid"] = string(v.InvolvedObject.UID)
	set["involvedObject.apiVersion"] = v.InvolvedObject.APIVersion
	set["involvedObject.resourceVersion"] = v.InvolvedObject.ResourceVersion
	set["involvedObject.fieldPath"] = v.InvolvedObject.FieldPath
	set["reason"] = v.Reason
	set["reportingComponent"] = v.ReportingController
	set["source"] = v.Source.Component
	if set["source"] == "" {
		set["source"] = v.ReportingController
	}
	set["type"] = v.Type
}

// A selector says which objects of a kind a list or watch wants.
type selector struct {
	namespace string // "" is all
	name      string // "" is all; known from a field selector
	labels    labels.Selector
	fields    fields.Selector
	kubelet   bool // it is not shown what is withheld from it
	// hides, if not nil, leaves objects out that match; see lateDevices.
	hides func(object.Object) bool
}

func newSelector(namespace string, opts *metainternalversion.ListOptions) selector {
	s := selector{namespace: namespace, labels: labels.Everything(), fields: fields.Everything()}
	if opts == nil {
		return s
	}
	if opts.LabelSelector != nil {
		s.labels = opts.LabelSelector
	}
	if opts.FieldSelector != nil {
		s.fields = opts.FieldSelector
		if name, ok := s.fields.RequiresExactMatch("metadata.name"); ok {
			s.name = name
		}
	}
	return s
}

// mayMatch decides what it can from the key alone, so that the kubelet's watches of single Secrets and ConfigMaps
// decode nothing that is not theirs.
func (s selector) mayMatch(k object.Key) bool {
	return (s.namespace == "" || s.namespace == k.Namespace) && (s.name == "" || s.name == k.Name)
}

func (s selector) matches(o object.Object) bool {
	if !s.labels.Empty() && !s.labels.Matches(labels.Set(o.GetLabels())) {
		return false
	}
	if !s.fields.Empty() && !s.fields.Matches(selectableFields(o)) {
		return false
	}
	return s.hides == nil || !s.hides(o)
}
