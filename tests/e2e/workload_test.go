package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
)

// TestEverythingAPodMayUse: volumes, environment, tokens, init containers, probes and the host's own, in one pod, and
// again after edgecore came back offline.
func TestEverythingAPodMayUse(t *testing.T) {
	s := sharedSystem(t)
	p := s.runEverything()
	s.checkEverything(p)

	s.cut()
	s.waitCore(s.killCore())
	s.checkEverything(p)
	s.heal()
}

// runEverything runs a pod that uses everything.
func (s *system) runEverything() *corev1.Pod {
	s.t.Helper()
	s.configMap("settings", map[string]string{"message": "from a ConfigMap", "color": "green"})
	_, err := s.Admin.CoreV1().Secrets(namespace).Create(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"},
		StringData: map[string]string{"password": "swordfish"}}, metav1.CreateOptions{})
	s.must(err)
	p := everything()
	s.createPod(p)
	return s.waitPod(p.Name, time.Minute, podReady)
}

func everything() *corev1.Pod {
	p := demoPod("everything")
	c := &p.Spec.Containers[0]
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	c.Env = []corev1.EnvVar{
		{Name: "COLOR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("settings"), Key: "color"}}},
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("secret"), Key: "password"}}},
		{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
		{Name: "HOST_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}},
		{Name: "OPTIONAL", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref("absent"), Key: "x", Optional: new(true)}}},
	}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref("settings")}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc/os-release", Type: new(corev1.HostPathFile)}}},
		{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "factory", ExpirationSeconds: new(int64(3600))}}}}}},
	}
	for _, m := range [][2]string{{"config", "/etc/demo"}, {"secret", "/secret"}, {"empty", "/empty"}, {"host", "/host-release"}, {"info", "/info"}, {"token", "/token"}} {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: m[0], MountPath: m[1]})
	}
	healthz := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: healthz, PeriodSeconds: 1}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: healthz, PeriodSeconds: 2}
	c.StartupProbe = &corev1.Probe{ProbeHandler: healthz, PeriodSeconds: 1}
	p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent,
		Args: []string{"write", "/empty/from-init", "prepared"}, VolumeMounts: []corev1.VolumeMount{{Name: "empty", MountPath: "/empty"}}}}
	return p
}

func (s *system) checkEverything(p *corev1.Pod) {
	s.t.Helper()
	for _, want := range []string{"COLOR=green\n", "PASSWORD=swordfish\n", "NODE=edge-1\n", "HOST_IP=" + s.edge.Address() + "\n"} {
		s.answers(p, "/env", want)
	}
	for file, want := range map[string]string{
		"/etc/demo/message": "from a ConfigMap", "/secret/password": "swordfish", "/empty/from-init": "prepared",
		"/host-release": "ID=", "/info/name": p.Name, "/token/token": "ey",
		"/var/run/secrets/kubernetes.io/serviceaccount/token": "ey", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt": "BEGIN CERTIFICATE",
	} {
		s.answers(p, "/files?path="+file, want)
	}
}

// TestHostNetworkAndStaticPods: a pod in the host's network, and one that only the site knows; the latter runs without
// the cloud and is mirrored to it.
func TestHostNetworkAndStaticPods(t *testing.T) {
	s := sharedSystem(t)
	p := demoPod("on-host")
	p.Spec.HostNetwork = true
	p.Spec.Containers[0].Args = []string{"serve", "--addr", ":8081"}
	s.createPod(p)
	p = s.waitPod(p.Name, time.Minute, podReady)
	if p.Status.PodIP != s.edge.Address() {
		t.Errorf("its address is %s, expected the host's %s", p.Status.PodIP, s.edge.Address())
	}
	file := filepath.Join(s.edge.StaticPods(), "site.yaml")
	t.Cleanup(func() { s.must(os.RemoveAll(file)) })
	s.cut()
	s.must(os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Pod
metadata: {name: site, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: demo, image: %q, imagePullPolicy: IfNotPresent}]
`, images.Demo), 0o600))
	cluster.Eventually(t, time.Minute, "the static pod to run offline", func() error {
		if s.containers()["default/site-edge-1/demo"] == "" {
			return fmt.Errorf("these run: %v", s.containers())
		}
		return nil
	})
	before := s.containers()
	s.heal()
	s.waitPod("site-edge-1", 2*time.Minute, podReady)
	s.sameContainers(before)
	s.must(os.Remove(file))
	s.waitGone("site-edge-1", time.Minute)
}

// TestThirtyPodsAtOnce and a large object with them.
func TestThirtyPodsAtOnce(t *testing.T) {
	s := sharedSystem(t)
	s.configMap("many", map[string]string{"message": "many", "big": strings.Repeat("0123456789abcdef", 65_400)}) // with its other key just below 1 MiB, the API server's limit
	s.deployment("many", 30)
	s.waitDeployment("many", 30, 3*time.Minute)
	p := s.podsOf("many")[0]
	s.answers(&p, "/", "many")
	s.answers(&p, "/files?path=/etc/demo/big", "0123456789abcdef")
}

// TestADeadRuntimeEndsNothing: containerd is killed and comes back; edgecore stays and pods go on (their shims live).
func TestADeadRuntimeEndsNothing(t *testing.T) {
	s := sharedSystem(t)
	p := s.runPod("steady")
	before := s.containers()
	pid, err := s.edge.CorePID()
	s.must(err)
	s.must(s.edge.Containerd().Kill())
	s.answers(p, "/healthz", "")
	s.must(s.edge.StartContainerd(context.Background()))
	s.runPod("next")
	s.sameContainers(before)
	if now, err := s.edge.CorePID(); err != nil || now != pid {
		t.Errorf("edgecore was process %d, is %d (%v): a dead runtime ended it", pid, now, err)
	}
}
