package horizon

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhatAPodNeedsWhenItStartsAgain(t *testing.T) {
	container := func(name string, policy corev1.PullPolicy) corev1.Container {
		return corev1.Container{Name: name, Image: "h/" + name + ":v1", ImagePullPolicy: policy}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	// pod has an init container that ended, and a main one in that state, begun so long ago.
	pod := func(restart corev1.RestartPolicy, init, main corev1.ContainerState, ago time.Duration) *corev1.Pod {
		began := metav1.NewTime(noon.Add(-ago))
		return &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: restart,
			InitContainers: []corev1.Container{container("init", corev1.PullIfNotPresent)}, Containers: []corev1.Container{container("main", corev1.PullAlways)}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began,
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: init}}, ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: main}}}}
	}
	const both = "[{h/init:v1 false} {h/main:v1 true}]"
	always, never, onFailure := corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	with := func(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
		change(p)
		return p
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"a pod that runs":                      {pod(always, ended(0), running, time.Minute), both},
		"one that is on its way":               {pod(always, running, waiting("PodInitializing"), time.Minute), "[{h/init:v1 false}]"},
		"one that is on its way for long":      {pod(always, running, waiting("PodInitializing"), time.Hour), both},
		"one whose pull failed":                {pod(always, ended(0), waiting("ImagePullBackOff"), time.Minute), both},
		"one that crashes":                     {pod(always, ended(0), waiting("CrashLoopBackOff"), time.Hour), both},
		"one that is not seen yet":             {with(pod(always, ended(0), running, 0), func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }), "[]"},
		"a job that runs is not begun again":   {pod(never, ended(0), running, time.Hour), "[{h/init:v1 false}]"},
		"a job that has not begun":             {pod(never, ended(0), waiting("ErrImagePull"), time.Minute), both},
		"a job that begins again on failure":   {pod(onFailure, ended(0), ended(1), time.Hour), both},
		"what is done is not begun again":      {pod(onFailure, ended(0), ended(0), time.Hour), "[{h/init:v1 false}]"},
		"a pod that ended":                     {with(pod(always, ended(0), running, time.Hour), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "[]"},
		"a pod that is deleted":                {with(pod(always, ended(0), running, time.Hour), func(p *corev1.Pod) { p.DeletionTimestamp = p.Status.StartTime }), "[]"},
		"two containers of one image need one": {with(pod(always, ended(0), running, time.Hour), func(p *corev1.Pod) { p.Spec.InitContainers[0] = p.Spec.Containers[0] }), "[{h/main:v1 true}]"},
		"a volume's image": {with(pod(always, ended(0), running, time.Hour), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "h/data:v1"}}}}
		}), "[{h/init:v1 false} {h/main:v1 true} {h/data:v1 false}]"},
	} {
		if got := fmt.Sprint(Needs(c.pod, noon)); got != c.want {
			t.Errorf("%s: needs %s, expected %s", name, got, c.want)
		}
	}
}

func TestAPodThatRanNeedsItsToken(t *testing.T) {
	projected := corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}}
	p := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{projected}}}
	if NeedsToken(p) {
		t.Error("a pod that has not run is on its way")
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1}}
	if !NeedsToken(p) {
		t.Error("one that ran needs none")
	}
	p.Status.Phase = corev1.PodSucceeded
	if NeedsToken(p) {
		t.Error("one that ended needs one")
	}
	p.Status.Phase, p.Spec.Volumes[0].Projected.Sources = corev1.PodRunning, nil
	if NeedsToken(p) {
		t.Error("one without a token needs one")
	}
}
