package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/build/images"
)

const namespace = "default"

// poll is how often the API is asked while a Deployment is scaled, over one connection.
const poll = 100 * time.Millisecond

// deploy makes a Deployment without replicas whose pods run on one node.
func (s *system) deploy(ctx context.Context, name, node string) error {
	none, grace := int32(0), int64(1)
	labels := map[string]string{"app": name}
	_, err := s.Admin.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				NodeSelector:                  map[string]string{corev1.LabelHostname: node},
				TerminationGracePeriodSeconds: &grace,
				Containers:                    []corev1.Container{{Name: "demo", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make Deployment %s: %w", name, err)
	}
	return nil
}

// scale sets the number of replicas and returns how long it took, from before the request until that many pods, and no
// others, are there and Ready.
func (s *system) scale(ctx context.Context, name string, replicas int) (time.Duration, error) {
	start := time.Now()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	if _, err := s.Admin.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "scale"); err != nil {
		return 0, fmt.Errorf("scale %s to %d: %w", name, replicas, err)
	}
	err := until(ctx, poll, readyTimeout, fmt.Sprintf("%d pods of %s", replicas, name), func() error { return s.podsReady(ctx, name, replicas) })
	return time.Since(start), err
}

// podsReady returns nil when a Deployment has exactly that many pods and all are Ready.
func (s *system) podsReady(ctx context.Context, name string, replicas int) error {
	ready, all, err := s.countPods(ctx, name)
	if err == nil && (ready != replicas || all != replicas) {
		err = fmt.Errorf("expected %d pods, all Ready, found %d, of which %d are", replicas, all, ready)
	}
	return err
}

func (s *system) countPods(ctx context.Context, name string) (ready, all int, err error) {
	list, err := s.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return 0, 0, err
	}
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready, len(list.Items), nil
}
