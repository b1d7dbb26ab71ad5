package kubeapi

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAPodsLineSaysWhatKubectlWould: the readiness, the word and the restarts of pods in every state.
func TestAPodsLineSaysWhatKubectlWould(t *testing.T) {
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	always := corev1.ContainerRestartPolicyAlways
	running := corev1.ContainerStatus{Ready: true, Started: new(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	done := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}
	failed := corev1.ContainerStatus{RestartCount: 2, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 1}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Time{Time: now.Add(-time.Minute)}}}}
	waiting := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}
	ready := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	pod := func(phase corev1.PodPhase, init, main []corev1.ContainerStatus) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{Phase: phase}}
		for i, s := range init {
			s.Name = fmt.Sprint("init-", i)
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: s.Name})
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, s)
		}
		for i, s := range main {
			s.Name = fmt.Sprint("main-", i)
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: s.Name})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, s)
		}
		return p
	}
	with := func(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
		change(p)
		return p
	}
	list := func(s ...corev1.ContainerStatus) []corev1.ContainerStatus { return s }
	for want, p := range map[string]*corev1.Pod{
		"2/2 Running 0":               pod(corev1.PodRunning, nil, list(running, running)),
		"1/2 CrashLoopBackOff 0":      pod(corev1.PodRunning, nil, list(running, waiting)),
		"0/1 Error 2 (60s ago)":       pod(corev1.PodFailed, nil, list(failed)),
		"0/1 Completed 0":             pod(corev1.PodSucceeded, nil, list(done)),
		"1/2 Running 0":               with(pod(corev1.PodRunning, nil, list(done, running)), func(p *corev1.Pod) { p.Status.Conditions = ready }),
		"1/2 NotReady 0":              pod(corev1.PodRunning, nil, list(done, running)),
		"0/1 Init:CrashLoopBackOff 0": pod(corev1.PodPending, list(waiting), list(corev1.ContainerStatus{})),
		"0/1 Init:Error 2 (60s ago)":  pod(corev1.PodPending, list(failed), list(corev1.ContainerStatus{})),
		"0/1 Init:1/2 0":              pod(corev1.PodPending, list(done, corev1.ContainerStatus{}), list(corev1.ContainerStatus{})),
		"2/2 Terminating 0":           with(pod(corev1.PodRunning, nil, list(running, running)), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }),
		"0/2 Error 4 (60s ago)":       with(pod(corev1.PodFailed, nil, list(failed, failed)), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }),
		"2/2 Running 2 (60s ago)": with(pod(corev1.PodRunning, list(running), list(running)), func(p *corev1.Pod) {
			p.Spec.InitContainers[0].RestartPolicy = &always
			s := &p.Status.InitContainerStatuses[0]
			s.RestartCount, s.LastTerminationState = 2, failed.LastTerminationState
		}),
		"0/1 Evicted 0": with(pod(corev1.PodFailed, nil, list(corev1.ContainerStatus{})), func(p *corev1.Pod) { p.Status.Reason = "Evicted" }),
		"1/1 Running 0": pod(corev1.PodRunning, list(failedOnce(done)), list(running)),
	} {
		c := podCells(p, now)
		if got := fmt.Sprint(c[1], " ", c[2], " ", c[3]); got != want {
			t.Errorf("the line says %q, expected %q", got, want)
		}
	}
}

// failedOnce is a container that was started again.
func failedOnce(s corev1.ContainerStatus) corev1.ContainerStatus {
	s.RestartCount = 1
	return s
}
