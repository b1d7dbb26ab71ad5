package keadm

import (
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// A description names what a person looks for when a pod does not run.
func TestADescriptionTellsWhyAPodDoesNotRun(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", CreationTimestamp: metav1.Time{Time: today.Add(-time.Hour)},
		OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", Controller: new(true)}}},
		Spec: corev1.PodSpec{NodeName: "edge-1", RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "a", Image: "demo:1"}, {Name: "late", Image: "demo:2"}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady", Message: "a", LastTransitionTime: metav1.Time{Time: today.Add(-time.Minute)}}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "a", RestartCount: 4,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", FinishedAt: metav1.Time{Time: today.Add(-10 * time.Second)}}}}}}}
	var d description
	p.Annotations = map[string]string{object.AnnotationKept: object.KeptHeld}
	d.pod(p, today)
	var out strings.Builder
	if err := d.write(&out); err != nil {
		t.Fatal(err)
	}
	plain := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"Name: web Namespace: shop Node: edge-1 Created: 2030-06-01 11:00:00 UTC (1h) Held: the cluster has lost this node; the pod runs on",
		"Controlled By: ReplicaSet/web-1", "a: Image: demo:1", "State: Waiting, CrashLoopBackOff: back-off 40s",
		"Last State: Terminated at 2030-06-01 11:59:50 UTC (10s), exit code 137, OOMKilled", "Restart Count: 4", "late: Image: demo:2 State: not reported yet",
		"Ready False 60s ContainersNotReady: a", "v: Secret key",
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("expected %q in\n%s", want, out.String())
		}
	}
}

// What a container wrote moves no terminal.
func TestADescriptionIsPlainText(t *testing.T) {
	var d description
	d.say(0, "State", "Terminated, \x1b[2Jcleared")
	d.table([][]string{{"Message"}, {"\x1b]0;title\a"}})
	var out strings.Builder
	if err := d.write(&out); err != nil || strings.ContainsRune(out.String(), 0x1b) || !strings.Contains(out.String(), "^[[2Jcleared") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestDescribeTellsOfSeveral: those that are named, or all that a selector chooses, with two blank lines between them.
func TestDescribeTellsOfSeveral(t *testing.T) {
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			answerWith(t, w, corev1.EventList{})
		case strings.HasSuffix(r.URL.Path, "/pods"):
			list := corev1.PodList{}
			if s := r.URL.Query().Get("labelSelector"); s == "app=web" {
				list.Items = []corev1.Pod{podOf("web-0"), podOf("web-1")}
			} else if s != "app=none" {
				t.Errorf("label selector %q", s)
			}
			answerWith(t, w, list)
		default:
			answerWith(t, w, podOf(path.Base(r.URL.Path)))
		}
	})
	for _, args := range [][]string{{"pods", "-l", "app=web"}, {"pods", "-A", "-l", "app=web"}, {"pod", "web-0", "web-1"}, {"po/web-0", "pod/web-1"}} {
		for _, events := range []bool{true, false} {
			out := do(t, append([]string{"ctl", "describe", "--config", files.config, fmt.Sprintf("--show-events=%t", events)}, args...)...)
			first, second, ok := strings.Cut(out, "\n\n\n")
			if !ok || !strings.Contains(first, "web-0") || !strings.Contains(second, "web-1") || strings.Count(out, "Events:") != map[bool]int{true: 2}[events] {
				t.Errorf("%q, events %t:\n%s", args, events, out)
			}
		}
	}
	code, out, errOut := call(t, today, "ctl", "describe", "pods", "-l", "app=none", "--config", files.config)
	if code != 0 || out != "" || errOut != "No resources found in default namespace.\n" {
		t.Errorf("of none: exit %d\n%s%s", code, out, errOut)
	}
}
