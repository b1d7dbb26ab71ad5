package horizon

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// startsWithin is how long a pod's first start may take before what it lacks counts: until then it is on its way.
const startsWithin = 10 * time.Minute

// A Need is an image that a pod needs at its next start.
type Need struct {
	Image string
	// Asked says that its registry is asked at each start.
	Asked bool
}

// Needs returns the images, each once, that a pod needs when it starts again, as after a boot; none if it does not. Those of
// containers that never ran are left out while the pod's first start is under way.
func Needs(p *corev1.Pod, now time.Time) (needs []Need) {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	add := func(image string, policy corev1.PullPolicy) {
		n := Need{image, policy == corev1.PullAlways}
		if image != "" && !slices.Contains(needs, n) {
			needs = append(needs, n)
		}
	}
	underWay := starting(p, now)
	containers := func(list []corev1.Container, statuses []corev1.ContainerStatus, init bool) {
		for i := range list {
			c := &list[i]
			s := statusOf(statuses, c.Name)
			// A new sandbox runs init containers again.
			if !ran(s) && underWay && !pullFailed(s) || !init && over(p, s) {
				continue
			}
			add(c.Image, c.ImagePullPolicy)
		}
	}
	containers(p.Spec.InitContainers, p.Status.InitContainerStatuses, true)
	containers(p.Spec.Containers, p.Status.ContainerStatuses, false)
	if !underWay || Ran(p) {
		for i := range p.Spec.Volumes {
			if v := p.Spec.Volumes[i].Image; v != nil {
				add(v.Reference, v.PullPolicy)
			}
		}
	}
	return needs
}

// NeedsToken reports whether a pod that has run mounts a token, without which it does not start again.
func NeedsToken(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || !Ran(p) {
		return false
	}
	for i := range p.Spec.Volumes {
		if v := p.Spec.Volumes[i].Projected; v != nil && slices.ContainsFunc(v.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil }) {
			return true
		}
	}
	return false
}

// Ran reports whether any container of the pod runs or ran.
func Ran(p *corev1.Pod) bool {
	has := func(s corev1.ContainerStatus) bool { return ran(&s) }
	return slices.ContainsFunc(p.Status.InitContainerStatuses, has) || slices.ContainsFunc(p.Status.ContainerStatuses, has)
}

// starting reports whether the pod began to start a short while ago.
func starting(p *corev1.Pod, now time.Time) bool {
	began := p.Status.StartTime
	return began == nil || now.Sub(began.Time) < startsWithin
}

func statusOf(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	if i := slices.IndexFunc(list, func(s corev1.ContainerStatus) bool { return s.Name == name }); i >= 0 {
		return &list[i]
	}
	return &corev1.ContainerStatus{}
}

func ran(s *corev1.ContainerStatus) bool {
	return s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil || s.RestartCount > 0
}

// pullFailed reports whether the kubelet waits after a pull that failed.
func pullFailed(s *corev1.ContainerStatus) bool {
	w := s.State.Waiting
	return w != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}, w.Reason)
}

// over reports whether a container is not started again, whatever happens.
func over(p *corev1.Pod, s *corev1.ContainerStatus) bool {
	switch p.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return ran(s)
	case corev1.RestartPolicyOnFailure:
		return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	}
	return false
}
