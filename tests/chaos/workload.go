package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/build/images"
)

// namespace holds all workloads.
const namespace = "chaos"

// dataPod is the pod of the StatefulSet.
const dataPod = "data-0"

// changeEvery is the pause between two changes that people make to the workloads.
const changeEvery = 1500 * time.Millisecond

// workload is what runs while things go wrong, and the people who change it all the time.
type workload struct {
	w       *world
	devices dynamic.ResourceInterface // the Devices of the namespace
	meters  *meters
	valve   *valve
	stream  *stream
	log     *logStream
	witness *witness

	mu   sync.Mutex
	rand *rand.Rand
	jobs int
	// changes counts those of a run: a rollout needs a stamp of its own.
	changes int
	// checks are what faults have left to be looked at once all is at rest.
	checks []func(context.Context) error
	// rewindings counts how often the cluster went back to an older state.
	rewindings int
}

func newWorkload(w *world, seed uint64) (*workload, error) {
	client, err := dynamic.NewForConfig(w.REST())
	if err != nil {
		return nil, fmt.Errorf("make a client for devices: %w", err)
	}
	l := &workload{w: w, rand: rand.New(rand.NewPCG(seed, 3))}
	l.devices = client.Resource(v1beta1.GroupVersion.WithResource("devices")).Namespace(namespace)
	l.meters = newMeters(w, client)
	l.valve = newValve(l.meters)
	l.stream, l.log, l.witness = &stream{w: w}, newLogStream(w), newWitness(w)
	return l, nil
}

// rewound tells the workload that the cluster goes back to an older state.
func (l *workload) rewound() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rewindings++
	l.meters.forgive()
	l.witness.forgive()
}

// afterwards has something looked at once all is at rest.
func (l *workload) afterwards(check func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checks = append(l.checks, check)
}

// left does what faults have left to be looked at, and forgets it.
func (l *workload) left(ctx context.Context) error {
	l.mu.Lock()
	checks := l.checks
	l.checks = nil
	l.mu.Unlock()
	var faults []error
	for _, check := range checks {
		faults = append(faults, check(ctx))
	}
	return errors.Join(faults...)
}

// podSpec is a pod of the demonstration image with one container.
func podSpec(args ...string) corev1.PodSpec {
	return corev1.PodSpec{
		NodeSelector:                  map[string]string{corev1.LabelHostname: edgeName},
		TerminationGracePeriodSeconds: new(int64(1)),
		Containers:                    []corev1.Container{{Name: "demo", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent, Args: args}},
	}
}

// deploy makes the workloads: a Deployment with ConfigMap, Secret and projected token, a StatefulSet with a directory of
// the host, a DaemonSet, a CronJob; Jobs come as time goes by; devices with a mapper and by MQTT.
func (l *workload) deploy(ctx context.Context) error {
	core, apps, batch := l.w.Admin.CoreV1(), l.w.Admin.AppsV1(), l.w.Admin.BatchV1()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	labels := func(name string) (*metav1.LabelSelector, metav1.ObjectMeta) {
		own := map[string]string{"app": name}
		return &metav1.LabelSelector{MatchLabels: own}, metav1.ObjectMeta{Labels: own}
	}
	web := podSpec("serve")
	web.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
		{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "factory", ExpirationSeconds: new(int64(3600))}}}}}},
	}
	web.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/demo"}, {Name: "secret", MountPath: "/secret"}, {Name: "token", MountPath: "/token"}}
	data := podSpec("serve")
	data.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/kubelet/chaos-data", Type: new(corev1.HostPathDirectoryOrCreate)}}}}
	data.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	data.InitContainers = []corev1.Container{{Name: "write", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"write", "/data/kept", "kept"}, VolumeMounts: data.Containers[0].VolumeMounts}}
	data.Containers = append(data.Containers, corev1.Container{Name: counter, Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"count"}})
	webSelector, webLabels := labels("web")
	dataSelector, dataLabels := labels("data")
	agentSelector, agentLabels := labels("agent")
	tick := podSpec("exit", "0")
	tick.RestartPolicy = corev1.RestartPolicyNever
	_, err0 := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta(namespace)}, metav1.CreateOptions{})
	_, err1 := core.ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta("settings"), Data: map[string]string{"message": "0"}}, metav1.CreateOptions{})
	_, err2 := core.Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta("secret"), StringData: map[string]string{"password": "0"}}, metav1.CreateOptions{})
	_, err3 := apps.Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{Replicas: new(int32(2)), Selector: webSelector,
		Template: corev1.PodTemplateSpec{ObjectMeta: webLabels, Spec: web}}}, metav1.CreateOptions{})
	_, err4 := apps.StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta("data"), Spec: appsv1.StatefulSetSpec{Replicas: new(int32(1)), Selector: dataSelector,
		Template: corev1.PodTemplateSpec{ObjectMeta: dataLabels, Spec: data}}}, metav1.CreateOptions{})
	_, err5 := apps.DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta("agent"), Spec: appsv1.DaemonSetSpec{Selector: agentSelector,
		Template: corev1.PodTemplateSpec{ObjectMeta: agentLabels, Spec: podSpec("serve")}}}, metav1.CreateOptions{})
	_, err6 := batch.CronJobs(namespace).Create(ctx, &batchv1.CronJob{ObjectMeta: meta("tick"), Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent,
		SuccessfulJobsHistoryLimit: new(int32(3)), JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: tick}}}}}, metav1.CreateOptions{})
	if err := errors.Join(err0, err1, err2, err3, err4, err5, err6); err != nil {
		return fmt.Errorf("deploy the workloads: %w", err)
	}
	return errors.Join(l.meters.deploy(ctx), l.valve.deploy(ctx))
}

// live changes the workloads until ctx ends: what people do all day. A rollout of the DaemonSet is the first, so that one overlaps with every fault. That the API server does not answer is theirs to bear.
func (l *workload) live(ctx context.Context) {
	tick := time.NewTicker(changeEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		what, err := l.change(call, first)
		cancel()
		if err != nil && ctx.Err() == nil {
			l.w.time.say("    not changed: %s: %v", what, err)
		}
	}
}

// change makes one change, a rollout of the DaemonSet or any.
func (l *workload) change(ctx context.Context, rollout bool) (what string, err error) {
	l.mu.Lock()
	l.changes++
	n, draw := l.changes, l.rand.IntN(20)
	value := strconv.Itoa(n)
	l.mu.Unlock()
	core, apps := l.w.Admin.CoreV1(), l.w.Admin.AppsV1()
	merge := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // of maps of texts
		}
		return b
	}
	stamped := merge(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{"stamp": value}}}}})
	switch {
	case rollout:
		_, err = apps.DaemonSets(namespace).Patch(ctx, "agent", types.MergePatchType, stamped, metav1.PatchOptions{})
		return "DaemonSet", err
	case draw < 6:
		_, err = core.ConfigMaps(namespace).Patch(ctx, "settings", types.MergePatchType, merge(map[string]any{"data": map[string]string{"message": value}}), metav1.PatchOptions{})
		return "ConfigMap", err
	case draw < 9:
		_, err = core.Secrets(namespace).Patch(ctx, "secret", types.MergePatchType, merge(map[string]any{"stringData": map[string]string{"password": value}}), metav1.PatchOptions{})
		return "Secret", err
	case draw < 14:
		return "Device", l.meters.desire(ctx, n)
	case draw < 16:
		_, err = apps.Deployments(namespace).Patch(ctx, "web", types.MergePatchType, merge(map[string]any{"spec": map[string]any{"replicas": 2 + n%3}}), metav1.PatchOptions{})
		return "scale", err
	case draw < 17:
		_, err = apps.Deployments(namespace).Patch(ctx, "web", types.MergePatchType, stamped, metav1.PatchOptions{})
		return "rollout", err
	default:
		return "Job", l.job(ctx)
	}
}

// job makes a Job of one pod.
func (l *workload) job(ctx context.Context) error {
	l.mu.Lock()
	l.jobs++
	name := fmt.Sprintf("job-%d", l.jobs)
	l.mu.Unlock()
	spec := podSpec("sleep", "2")
	spec.RestartPolicy = corev1.RestartPolicyNever
	_, err := l.w.Admin.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"chaos": "job"}},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the answer to an earlier try was lost
	}
	return err
}

// settled returns nil when the controllers of the cluster have what they want.
func (l *workload) settled(ctx context.Context) error {
	apps := l.w.Admin.AppsV1()
	d, err := apps.Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s := d.Status; s.ObservedGeneration != d.Generation || s.Replicas != *d.Spec.Replicas || s.UpdatedReplicas != s.Replicas || s.AvailableReplicas != s.Replicas {
		return fmt.Errorf("the Deployment wants %d replicas and has %d, %d updated, %d available", *d.Spec.Replicas, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
	}
	a, err := apps.DaemonSets(namespace).Get(ctx, "agent", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s := a.Status; s.ObservedGeneration != a.Generation || s.DesiredNumberScheduled != 1 || s.UpdatedNumberScheduled != 1 || s.NumberAvailable != 1 || s.NumberMisscheduled != 0 {
		return fmt.Errorf("the DaemonSet is %+v", s)
	}
	s, err := apps.StatefulSets(namespace).Get(ctx, "data", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s.Status.ReadyReplicas != 1 {
		return fmt.Errorf("the StatefulSet has %d pods that are Ready", s.Status.ReadyReplicas)
	}
	jobs, err := l.w.Admin.BatchV1().Jobs(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range jobs.Items {
		if j := &jobs.Items[i]; j.Status.CompletionTime == nil {
			return fmt.Errorf("Job %s is not complete: %d active, %d failed", j.Name, j.Status.Active, j.Status.Failed)
		}
	}
	return nil
}

// suspend stops the CronJob, or lets it go on, so that nothing new comes while the world is compared.
func (l *workload) suspend(ctx context.Context, yes bool) error {
	patch := fmt.Appendf(nil, `{"spec":{"suspend":%t}}`, yes)
	_, err := l.w.Admin.BatchV1().CronJobs(namespace).Patch(ctx, "tick", types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// touch has the kubelet look at a pod.
func (l *workload) touch(ctx context.Context, pod string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"touched":"%d"}}}`, time.Now().UnixNano())
	_, err := l.w.Admin.CoreV1().Pods(namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
