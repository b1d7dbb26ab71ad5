package keadm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/tether-edge/tether/common/object"
)

// revoked is how long CloudCores may take to end the session of a node whose identity is revoked; it began to be alone then, at the latest.
const revoked = time.Minute

// fence returns how long after its identity is revoked the node has surely ended the pods that ask for it. The error says why that is not
// known, or which pods do not ask; unfenced accepts those.
func (r *nodeRemoval) fence(ctx context.Context, unfenced bool) (time.Duration, error) {
	if r.node == nil {
		return 0, fmt.Errorf("node %s has no Node, so nothing tells after what time it ends what is fenced: expected --powered-off; %s", r.name, untouched)
	}
	word := r.node.Annotations[object.AnnotationFenceAfter]
	after, err := time.ParseDuration(word)
	if word == "" || err != nil || after <= 0 {
		return 0, fmt.Errorf("node %s shows no fenceAfter (annotation %s is %q): expected steward.fenceAfter in its configuration, as it was when it was last connected; "+
			"of a machine that runs nothing say so: --powered-off; %s", r.name, object.AnnotationFenceAfter, word, untouched)
	}
	list, err := r.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", r.name).String()})
	if err != nil {
		return 0, fmt.Errorf("list the pods of node %s: %w", r.name, err)
	}
	var grace int64
	var others []string
	for i := range list.Items {
		p := &list.Items[i]
		switch {
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || r.unheardOf(p.CreationTimestamp.Time):
		case p.Annotations[object.AnnotationFence] == "true" && !object.IsMirror(p) && !r.annotatedLater(p):
			if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
				grace = max(grace, *s)
			}
		case !slices.ContainsFunc(p.Spec.Tolerations, toleratesLoss):
			others = append(others, p.Namespace+"/"+p.Name)
		}
	}
	for _, c := range r.node.Status.Conditions {
		if c.Type == object.ConditionKeptPods && c.Status == corev1.ConditionTrue {
			others = append(others, "what its site keeps without the cluster ("+c.Message+")")
		}
	}
	if len(others) > 0 && !unfenced {
		return 0, fmt.Errorf("%d pods of node %s were not annotated %s: \"true\" when it was last heard, and may run on there, beside those that replace them: %s; expected --unfenced-too if they may, or --powered-off; %s",
			len(others), r.name, object.AnnotationFence, strings.Join(others[:min(len(others), 10)], ", "), untouched)
	}
	return revoked + after + time.Duration(grace)*time.Second, nil
}

// unheardOf reports whether the node cannot know of something that was done at that time: it was heard last before.
func (r *nodeRemoval) unheardOf(at time.Time) bool {
	return r.lease != nil && r.lease.Spec.RenewTime != nil && at.After(r.lease.Spec.RenewTime.Time)
}

// annotatedLater reports whether the node cannot know that the pod is to be fenced.
func (r *nodeRemoval) annotatedLater(p *corev1.Pod) bool {
	for _, m := range p.ManagedFields {
		if m.Time != nil && m.FieldsV1 != nil && strings.Contains(string(m.FieldsV1.Raw), `"f:`+object.AnnotationFence+`"`) && r.unheardOf(m.Time.Time) {
			return true
		}
	}
	return false
}

// await waits for the node's fence. It begins anew where it was interrupted: nobody else knows since when the node is alone.
func (r *nodeRemoval) await(ctx context.Context, falls time.Duration) error {
	if falls == 0 {
		return nil
	}
	quiet := IO{Out: r.w.Err, Err: r.w.Err, Now: r.w.Now}
	end := time.Now().Add(falls)
	return waitFor(ctx, quiet, falls+time.Minute, seldom, "node "+r.name+" to be fenced", func(context.Context) answer {
		if !time.Now().Before(end) {
			return answer{ok: true}
		}
		return answer{missing: fmt.Sprintf("it has ended what is annotated %s %s after its certificates were revoked", object.AnnotationFence, falls)}
	})
}
