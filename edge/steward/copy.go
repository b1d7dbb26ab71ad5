package steward

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxName is the longest name of a pod whose name is its hostname too.
const maxName = 63

// standIn returns a pod that stands in for original, as its controller would have made it. peers are pods that were there before it.
func standIn(original *corev1.Pod, uid types.UID, attempt int, peers []types.UID, now time.Time) *corev1.Pod {
	suffix := "-stand-in-" + strings.ReplaceAll(string(uid), "-", "")[:5]
	name := original.Name
	if len(name) > maxName-len(suffix) {
		name = strings.TrimRight(name[:maxName-len(suffix)], "-.")
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + suffix, Namespace: original.Namespace, UID: uid, GenerateName: original.GenerateName,
			Labels: maps.Clone(original.Labels), Annotations: maps.Clone(original.Annotations),
			OwnerReferences: slices.Clone(original.OwnerReferences), CreationTimestamp: metav1.NewTime(now.Truncate(time.Second)), Generation: 1,
		},
		Spec: *original.Spec.DeepCopy(),
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: original.Status.QOSClass, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}}},
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Labels[StandInLabel] = "true"
	pod.Annotations[StandInFor], pod.Annotations[StandInForUID] = original.Name, string(original.UID)
	pod.Annotations[Attempt] = strconv.Itoa(attempt)
	setPeers(pod, peers)
	pod.Spec.EphemeralContainers = nil
	for i := range pod.Spec.Volumes {
		// The claim of a generic ephemeral volume is named after its pod and belongs to it: the copy uses the original's.
		if v := &pod.Spec.Volumes[i]; v.Ephemeral != nil {
			v.Ephemeral, v.PersistentVolumeClaim = nil, &corev1.PersistentVolumeClaimVolumeSource{ClaimName: original.Name + "-" + v.Name}
		}
	}
	return pod
}

func peersOf(pod *corev1.Pod) []types.UID {
	var uids []types.UID
	for uid := range strings.SplitSeq(pod.Annotations[Peers], ",") {
		if uid != "" {
			uids = append(uids, types.UID(uid))
		}
	}
	return uids
}

func setPeers(pod *corev1.Pod, uids []types.UID) {
	if len(uids) == 0 {
		delete(pod.Annotations, Peers)
		return
	}
	words := make([]string, 0, len(uids))
	for _, uid := range uids {
		words = append(words, string(uid))
	}
	slices.Sort(words)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[Peers] = strings.Join(slices.Compact(words), ",")
}

// attempt returns which of the stand-ins of one pod a stand-in is.
func attemptOf(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[Attempt])
	if err != nil || n < 1 {
		return 1
	}
	return n
}
