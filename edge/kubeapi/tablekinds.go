package kubeapi

import (
	"cmp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var eventHeads = []metav1.TableColumnDefinition{
	head("Last Seen", "string", 0), head("Type", "string", 0), head("Reason", "string", 0), head("Object", "string", 0),
	head("Subobject", "string", 1), head("Source", "string", 1), head("Message", "string", 0), head("First Seen", "string", 1),
	head("Count", "string", 1), head("Name", "string", 1),
}

func eventCells(o runtime.Object, now time.Time) []any {
	e, ok := o.(*corev1.Event)
	if !ok {
		return make([]any, len(eventHeads))
	}
	first := cmp.Or(e.FirstTimestamp, metav1.NewTime(e.EventTime.Time))
	last, count := cmp.Or(e.LastTimestamp, first), max(e.Count, 1)
	if e.Series != nil {
		last, count = metav1.NewTime(e.Series.LastObservedTime.Time), e.Series.Count
	}
	source := cmp.Or(e.Source.Component, e.ReportingController)
	if host := cmp.Or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{
		ageOf(last, now), e.Type, e.Reason, strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name, e.InvolvedObject.FieldPath,
		source, strings.TrimSpace(e.Message), ageOf(first, now), int64(count), e.Name,
	}
}

var configMapHeads = []metav1.TableColumnDefinition{head("Name", "string", 0), head("Data", "string", 0), head("Age", "string", 0)}

func configMapCells(o runtime.Object, now time.Time) []any {
	c, ok := o.(*corev1.ConfigMap)
	if !ok {
		return make([]any, len(configMapHeads))
	}
	return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), ageOf(c.CreationTimestamp, now)}
}

var secretHeads = []metav1.TableColumnDefinition{head("Name", "string", 0), head("Type", "string", 0), head("Data", "string", 0), head("Age", "string", 0)}

func secretCells(o runtime.Object, now time.Time) []any {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return make([]any, len(secretHeads))
	}
	return []any{s.Name, string(s.Type), int64(len(s.Data)), ageOf(s.CreationTimestamp, now)}
}
