package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/tests/cluster"
)

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// TestAPodRunsThroughTheLink is the whole path: a pod of a stock control plane runs on the edge and answers.
func TestAPodRunsThroughTheLink(t *testing.T) {
	s := sharedSystem(t)
	s.answers(s.runPod("hello"), "/healthz", "")
}

func (s *system) deployment(name string, replicas int32) {
	s.t.Helper()
	labels := map[string]string{"app": name}
	p := demoPod("")
	p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	p.Spec.Containers[0].ImagePullPolicy = corev1.PullIfNotPresent
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/demo"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	_, err := s.Admin.AppsV1().Deployments(namespace).Create(context.Background(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec}},
	}, metav1.CreateOptions{})
	s.must(err)
}

func (s *system) configMap(name string, data map[string]string) {
	s.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := s.Admin.CoreV1().ConfigMaps(namespace).Create(context.Background(), cm, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = s.Admin.CoreV1().ConfigMaps(namespace).Update(context.Background(), cm, metav1.UpdateOptions{})
	}
	s.must(err)
}

func (s *system) waitDeployment(name string, replicas int32, timeout time.Duration) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, fmt.Sprintf("%d replicas of %s to be Ready", replicas, name), func() error {
		d, err := s.Admin.AppsV1().Deployments(namespace).Get(context.Background(), name, metav1.GetOptions{})
		if err == nil && (d.Status.ReadyReplicas != replicas || d.Status.ObservedGeneration != d.Generation) {
			err = fmt.Errorf("%d are", d.Status.ReadyReplicas)
		}
		return err
	})
}

func (s *system) podsOf(name string) []corev1.Pod {
	s.t.Helper()
	l, err := s.Admin.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + name})
	s.must(err)
	return l.Items
}

// touch makes the kubelet look at a pod at once: the content of mounted ConfigMaps follows with its next look, which
// may be a minute away.
func (s *system) touch(pod string) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"touched":"%d"}}}`, time.Now().UnixNano())
	_, err := s.Admin.CoreV1().Pods(namespace).Patch(context.Background(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	s.must(err)
}

// TestCutKillHealRestartsNothing is the promise to operators: the cable is pulled, edgecore dies, the cloud changes,
// and when the cable is back the changes are there within seconds and no container was restarted (I7).
func TestCutKillHealRestartsNothing(t *testing.T) {
	s := sharedSystem(t)
	s.configMap("app", map[string]string{"message": "first"})
	s.deployment("app", 2)
	s.waitDeployment("app", 2, time.Minute)
	pods := s.podsOf("app")
	before := s.containers()

	s.cut()
	s.answers(&pods[0], "/", "first")
	s.waitCore(s.killCore())
	s.eventuallyStatus(30*time.Second, "the kubelet to run again, offline", `"running"`)
	s.sameContainers(before)
	s.answers(&pods[1], "/", "first")

	s.configMap("app", map[string]string{"message": "second"})
	patch := []byte(`{"spec":{"replicas":3}}`)
	_, err := s.Admin.AppsV1().Deployments(namespace).Patch(context.Background(), "app", types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
	s.heal()
	s.waitDeployment("app", 3, 30*time.Second)
	s.touch(pods[0].Name)
	s.answers(&pods[0], "/", "second")
	s.sameContainers(before)
	for _, p := range s.podsOf("app") {
		if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("I7: pod %s shows %d restarts", p.Name, n)
		}
	}
}

// TestColdCloudDeletesNothing: CloudCore is killed and comes back with cold caches while pods run (I8).
func TestColdCloudDeletesNothing(t *testing.T) {
	s := sharedSystem(t)
	p := s.runPod("steady")
	before := s.containers()
	s.must(s.Cloud.Kill())
	s.must(s.Cloud.Restart())
	s.must(s.CloudReady(context.Background()))
	s.eventuallyStatus(30*time.Second, "the edge to be back", `"synced":true`)
	s.sameContainers(before)
	// The link works again, both ways.
	s.runPod("after")
	s.sameContainers(before)
	s.answers(p, "/healthz", "")
}

// TestAnEmptyStoreKillsNothing: the edge's database is lost while edgecore is down; the new one is filled before the
// kubelet looks at it (I8, I11).
func TestAnEmptyStoreKillsNothing(t *testing.T) {
	s := sharedSystem(t)
	p := s.runPod("survivor")
	before := s.containers()
	s.must(s.edge.Supervisor.Stop(20 * time.Second))
	s.loseStore()
	// Offline first: edgecore must wait, not start from nothing.
	s.must(s.edge.Cut())
	s.must(s.edge.StartCore(context.Background()))
	s.eventuallyStatus(30*time.Second, "the kubelet to wait for the first sync", "waiting-sync")
	s.sameContainers(before)
	s.heal()
	s.eventuallyStatus(time.Minute, "the kubelet to run", `"running"`)
	s.must(s.edge.WaitReady(context.Background(), time.Minute))
	s.runPod("later")
	s.sameContainers(before)
	s.answers(p, "/healthz", "")
}

// TestPowerCutOffline: everything on the edge dies at once while the cable is out; all pods are back without the cloud, with
// Secrets and tokens that no file of edgecore's shows.
func TestPowerCutOffline(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	s.configMap("app", map[string]string{"message": "kept"})
	s.deployment("app", 3)
	s.waitDeployment("app", 3, time.Minute)
	rich := s.runEverything() // with Secrets and tokens
	s.cut()
	s.must(s.edge.PowerCut())
	s.hidesSecrets()
	s.must(s.edge.Boot(ctx))
	s.must(s.edge.Cut()) // a boot brings links up
	if !s.edge.Containerd().Alive() {
		s.must(s.edge.StartContainerd(ctx))
	}
	s.must(s.edge.StartCore(ctx))
	cluster.Eventually(t, time.Minute, "4 containers to run again without the cloud", func() error {
		if n := len(s.containers()); n != 4 {
			return fmt.Errorf("%d run; %s", n, s.status())
		}
		return nil
	})
	s.heal()
	s.must(s.edge.WaitReady(ctx, 30*time.Second))
	s.waitDeployment("app", 3, 30*time.Second)
	pods := s.podsOf("app")
	if len(pods) != 3 {
		t.Errorf("%d pods, expected the 3 of before", len(pods))
	}
	s.answers(&pods[0], "/", "kept")
	s.checkEverything(rich)
	s.hidesSecrets()
}

// hidesSecrets fails if a file of edgecore's shows the Secret of runEverything, or a token of a service account (I10).
func (s *system) hidesSecrets() {
	s.t.Helper()
	looked := 0
	s.must(filepath.WalkDir(s.edge.DataDir(), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // it went meanwhile
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		looked += len(b)
		for _, secret := range []string{"swordfish", "eyJhbGciOi"} {
			if bytes.Contains(b, []byte(secret)) {
				s.t.Errorf("%s shows a Secret or a token (%q)", path, secret)
			}
		}
		return nil
	}))
	if looked < 100<<10 {
		s.t.Errorf("looked at %d bytes below %s: that is not where the database is", looked, s.edge.DataDir())
	}
}
