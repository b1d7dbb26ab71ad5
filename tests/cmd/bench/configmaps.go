package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/stack"
)

// bodySize is what one ConfigMap holds, in bytes.
const bodySize = 200

// mapsLabel marks the ConfigMaps of a row.
const mapsLabel = "bench"

func mapName(i int) string { return fmt.Sprintf("bench-%03d", i) }

// mapsAt is what a watcher sees once the first n ConfigMaps have a value.
func mapsAt(n, value int) map[string]int {
	values := map[string]int{}
	for i := range n {
		values[mapName(i)] = value
	}
	return values
}

// body is a value in words and then bodySize bytes of what a configuration is made of: names that repeat, and numbers.
func body(i, value int) string {
	random := rand.New(rand.NewPCG(uint64(i), uint64(value)))
	text := fmt.Sprintf("%d\n", value)
	for n := 0; len(text) < bodySize; n++ {
		text += fmt.Sprintf("sensor-%d.limit=%d.%d\n", n, random.IntN(100), random.IntN(100))
	}
	return text[:bodySize]
}

// valueOf is the value that body wrote; -1 for a body of something else.
func valueOf(cm *corev1.ConfigMap) int {
	value := -1
	_, _ = fmt.Sscan(cm.Data["body"], &value)
	return value
}

// makeMaps makes n ConfigMaps with value 0, and a pod on the node that mounts them all, which makes them the node's to see.
func (s *system) makeMaps(ctx context.Context, n int, node string) error {
	var sources []corev1.VolumeProjection
	for i := range n {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mapName(i), Labels: map[string]string{mapsLabel: ""}}, Data: map[string]string{"body": body(i, 0)}}
		if _, err := s.Admin.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make ConfigMap %s: %w", cm.Name, err)
		}
		sources = append(sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: cm.Name}, Items: []corev1.KeyToPath{{Key: "body", Path: cm.Name}}}})
	}
	grace := int64(1)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "reader", Labels: map[string]string{"app": "reader"}}, Spec: corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "demo", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent,
			VolumeMounts: []corev1.VolumeMount{{Name: "maps", MountPath: "/maps"}}}},
		Volumes: []corev1.Volume{{Name: "maps", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}},
	}}
	if _, err := s.Admin.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the pod that mounts them: %w", err)
	}
	return until(ctx, poll, readyTimeout, "the pod that mounts them", func() error { return s.podsReady(ctx, "reader", 1) })
}

// setMap writes a value and returns when the request was begun and when the answer was there.
func setMap(ctx context.Context, client kubernetes.Interface, i, value int) (begun, done time.Time, err error) {
	return setMapTo(ctx, client, i, body(i, value))
}

func setMapTo(ctx context.Context, client kubernetes.Interface, i int, text string) (begun, done time.Time, err error) {
	patch := fmt.Appendf(nil, `{"data":{"body":%q}}`, text)
	begun = time.Now()
	_, err = client.CoreV1().ConfigMaps(namespace).Patch(ctx, mapName(i), types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		err = fmt.Errorf("change ConfigMap %s: %w", mapName(i), err)
	}
	return begun, time.Now(), err
}

// localClient is a client of the edge's own API, as an operator at the gateway has one.
func localClient(e *stack.Edge) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", e.DataDir()+"/admin.kubeconfig")
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of the edge's own API: %w", err)
	}
	config.Dial, config.QPS = e.DialContext, -1
	return kubernetes.NewForConfig(config)
}
