package chaos

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// TestBothSidesOfAPodMustBeEqual, and the runtime must run what they show.
func TestBothSidesOfAPodMustBeEqual(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", ContainerID: "containerd://1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
			{Name: "b", ContainerID: "containerd://2", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	for name, c := range map[string]struct {
		cloud, edge *corev1.Pod
		runs        string
		want        string
	}{
		"equal":                {pod(nil), pod(nil), "1", ""},
		"terminating":          {pod(deleted), pod(deleted), "1", "Terminating"},
		"terminating here":     {pod(nil), pod(deleted), "1", "on the edge alone"},
		"not here":             {pod(nil), nil, "1", "none of its uid"},
		"another phase":        {pod(nil), pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "1", "Running in the cluster and Failed"},
		"other containers":     {pod(nil), pod(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 1 }), "1", "RestartCount:1"},
		"not ready":            {pod(unready), pod(nil), "1", "Running and not Ready"},
		"not ready here":       {pod(nil), pod(unready), "1", "Running and not Ready"},
		"does not run":         {pod(nil), pod(nil), "", "shown as running: true; it runs: false"},
		"runs though it ended": {pod(nil), pod(nil), "12", "shown as running: false; it runs: true"},
	} {
		running := map[string]cluster.Container{}
		for _, id := range c.runs {
			running[string(id)] = cluster.Container{}
		}
		err := samePod(c.cloud, c.edge, running)
		if c.want == "" {
			if err != nil || len(running) != 0 {
				t.Errorf("%s: %v, and these are left: %v", name, err, running)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		}
	}
}
