package steward

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An owner is what makes pods anew: two pods of the same owner can replace each other. The ReplicaSets of one Deployment are one
// owner, for a rollout gives each pod another.
type owner struct {
	namespace, kind, name string
}

// replacing are the controllers that replace a pod that has failed. Others may have their reasons not to.
var replacing = []string{"Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet"}

const statefulSet = "StatefulSet"

// ownerOf returns the owner of a pod; ok is false if it has none.
func ownerOf(pod *corev1.Pod) (o owner, ok bool) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return owner{}, false
	}
	o = owner{namespace: pod.Namespace, kind: ref.Kind, name: ref.Name}
	if hash := pod.Labels["pod-template-hash"]; hash != "" && ref.Kind == "ReplicaSet" {
		if base, cut := strings.CutSuffix(ref.Name, "-"+hash); cut && base != "" {
			o.kind, o.name = "Deployment", base
		}
	}
	return o, true
}

// sameOwner reports whether two pods have the same owner.
func sameOwner(a, b *corev1.Pod) bool {
	x, ok := ownerOf(a)
	y, also := ownerOf(b)
	return ok && also && x == y
}

// keepable reports whether the site may replace a pod that has failed, or says why not.
func keepable(pod *corev1.Pod) (ok bool, reason string) {
	o, owned := ownerOf(pod)
	switch {
	case pod.Annotations[Hold] == "false":
		return false, "its annotation " + Hold + " says so"
	case !owned:
		return false, "it has no controller"
	case o.kind == "Job" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways:
		return false, "it is to end"
	case pod.Annotations[Hold] != "true" && !slices.Contains(replacing, o.kind):
		return false, "a " + o.kind + " may not replace its pods: annotate the pod with " + Hold + `="true" if it does`
	case len(pod.Spec.ResourceClaims) > 0:
		return false, "it has devices by resource claims, which are its alone"
	case pod.Status.Reason == "DeadlineExceeded":
		return false, "its time is over"
	}
	return true, ""
}

// isStandIn reports whether a pod was made by a steward.
func isStandIn(pod *corev1.Pod) bool { return pod.Annotations[StandInForUID] != "" }

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}
