package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// The space on the disk of the pods, in bytes. Below evictBelow the kubelet evicts; what is left at first is scarce, and with the
// ballast of one pod it is enough again.
const (
	evictBelow = 32 << 20
	scarce     = 16 << 20
	ballast    = 24 << 20
)

// pressureLasts is for how long the node shows a pressure that is over.
const pressureLasts = 20 * time.Second

// The pods that the kubelet evicts first: the Deployment of that name has two, of a class below all others.
const (
	glutton    = "glutton"
	gluttons   = 2
	expendable = "expendable"
)

func pressureFaults() []Fault {
	const what = "The disk of the pods fills up while the cable is out, until the kubelet evicts"
	const once = " Static and critical pods and all others stay. The cluster hears of each end, once, and its controllers take over."
	return []Fault{
		{Name: "disk-pressure", Class: Edge, What: what + ".", Promise: "A pod that the kubelet ends has a copy in its place as soon as there is room, without the cloud, and none is ended twice." + once,
			Least: 2 * time.Second, Most: 5 * time.Second, Alone: true, begin: pressDisk(false)},
		{Name: "disk-pressure-back", Class: Edge, What: what + ", and the cable is in again before the node has room.", Promise: "The cluster keeps pods away while the node is short, and then makes others." + once,
			Least: 2 * time.Second, Most: 5 * time.Second, Alone: true, begin: pressDisk(true)},
	}
}

// pressure is a disk that fills up.
type pressure struct {
	*fault
	// eaten are the pods that have ballast, idle those that had not started when the cable went out: the kubelet knows nothing of
	// them, and may evict them too.
	eaten, idle map[types.UID]bool
	// static is the name of the static pod, as its manifest has it, and container its container.
	static, container string
	// shown: the edge has shown that it is short.
	shown bool
	// evicted are those that the kubelet ended, with the ends of stand-ins among them, if there were any.
	evicted []corev1.Pod
}

// pressDisk fills the disk. back has the cable in again while the node shows that it is short.
func pressDisk(back bool) func(*fault) (func() error, error) {
	return func(f *fault) (func() error, error) {
		p := &pressure{fault: f, eaten: map[types.UID]bool{}, idle: map[types.UID]bool{}, static: fmt.Sprintf("static-%d", f.rand.Uint32())}
		if err := p.arrange(); err != nil {
			return nil, err
		}
		better, err := f.w.cable.worsen(trouble{out: true})
		if err != nil {
			return nil, err
		}
		if err := until(f.ctx, restWithin, "the pods of the edge to be known", p.known); err != nil {
			return better, err
		}
		empty, err := f.w.pods.fill(scarce)
		if err != nil {
			return better, err
		}
		return func() error {
			err := until(f.ctx, restWithin, "the kubelet to evict", p.look)
			if !back && err == nil {
				err = until(f.ctx, restWithin, "stand-ins for what was evicted", p.replaced)
			}
			f.load.afterwards(p.heard)
			f.load.afterwards(func(context.Context) error { return empty() })
			return errors.Join(err, better())
		}, nil
	}
}

// arrange has the pods run that are to be evicted, with their ballast, and those that are not to be for anything.
func (p *pressure) arrange() error {
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: expendable}, Value: -10}
	if _, err := p.w.Admin.SchedulingV1().PriorityClasses().Create(p.ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make a priority class: %w", err)
	}
	spec, labels := podSpec("count"), map[string]string{"app": glutton}
	spec.PriorityClassName = expendable
	spec.Volumes = []corev1.Volume{{Name: "food", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "food", MountPath: "/food"}}
	_, err := p.w.Admin.AppsV1().Deployments(namespace).Create(p.ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: glutton}, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(gluttons)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a Deployment: %w", err)
	}
	vital := podSpec("serve")
	vital.PriorityClassName = "system-node-critical"
	if _, err := p.guest("vital", vital, true); err != nil {
		return err
	}
	if err := p.runStatic(); err != nil {
		return err
	}
	return until(p.ctx, patience, "the pods with ballast to run", func() error {
		list, err := p.w.Admin.CoreV1().Pods(namespace).List(p.ctx, metav1.ListOptions{LabelSelector: "app=" + glutton})
		if err != nil || len(list.Items) != gluttons {
			return fmt.Errorf("there are %d of %d: %w", len(list.Items), gluttons, err)
		}
		for i := range list.Items {
			if err := errors.Join(runs(&list.Items[i]), p.feed(list.Items[i].UID)); err != nil {
				return err
			}
		}
		return nil
	})
}

// feed gives a pod its ballast.
func (p *pressure) feed(uid types.UID) error {
	p.eaten[uid] = true
	return p.w.pods.inside(func(dir string) error {
		volume := filepath.Join(dir, "pods", string(uid), "volumes", "kubernetes.io~empty-dir", "food")
		return os.WriteFile(filepath.Join(volume, "ballast"), make([]byte, ballast), 0o644)
	})
}

// manifest is the file of the static pod, mirror what the cluster calls it.
func (p *pressure) manifest() string { return filepath.Join(p.w.edge.StaticPods(), p.static+".json") }
func (p *pressure) mirror() string   { return p.static + "-" + edgeName }

// runStatic has a static pod run, and notes its container.
func (p *pressure) runStatic() error {
	spec := podSpec("serve")
	spec.NodeSelector = nil
	manifest, err := json.Marshal(&corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: p.static, Namespace: namespace}, Spec: spec})
	if err == nil {
		err = errors.Join(os.MkdirAll(p.w.edge.StaticPods(), 0o755), os.WriteFile(p.manifest(), manifest, 0o644))
	}
	if err != nil {
		return fmt.Errorf("make a static pod: %w", err)
	}
	return until(p.ctx, patience, "the static pod to run", func() error {
		pod, err := p.w.Admin.CoreV1().Pods(namespace).Get(p.ctx, p.mirror(), metav1.GetOptions{})
		if err == nil {
			err = runs(pod)
		}
		if err == nil {
			p.container = pod.Status.ContainerStatuses[0].ContainerID
		}
		return err
	})
}

// knownAfter is how long a pod has to run until the kubelet is sure to know what it takes.
const knownAfter = 30 * time.Second

// known returns nil when all pods of the edge that run do so for a while: the kubelet evicts first of which it knows nothing. What has
// not started by the time that those have may lack its token, and does not start while the cable is out.
func (p *pressure) known() error {
	api, err := p.w.localAPI()
	if err != nil {
		return err
	}
	all, err := api.CoreV1().Pods(namespace).List(p.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	clear(p.idle)
	for i := range all.Items {
		pod := &all.Items[i]
		if ended(pod) {
			continue
		}
		p.idle[pod.UID] = true
		for _, c := range pod.Status.ContainerStatuses {
			r := c.State.Running
			if r != nil && time.Since(r.StartedAt.Time) < knownAfter {
				return fmt.Errorf("container %s of pod %s runs since %s", c.Name, pod.Name, r.StartedAt)
			}
			if r != nil {
				delete(p.idle, pod.UID)
			}
		}
	}
	return nil
}

// look notes what the edge shows, and returns nil once it has shown that it is short and a pod is evicted.
func (p *pressure) look() error {
	api, err := p.w.localAPI()
	if err != nil {
		return err
	}
	node, err := api.CoreV1().Nodes().Get(p.ctx, edgeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if pressed(node) && !p.shown {
		p.shown = true
		p.w.time.say("    the edge shows that it is short of space")
	}
	all, err := api.CoreV1().Pods(namespace).List(p.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	before := len(p.evicted)
	p.evicted = nil
	for i := range all.Items {
		if isEvicted(&all.Items[i]) {
			p.evicted = append(p.evicted, all.Items[i])
		}
	}
	if len(p.evicted) != before {
		p.w.time.say("    the edge shows %d pods as evicted", len(p.evicted))
	}
	if !p.shown || !slices.ContainsFunc(p.evicted, func(pod corev1.Pod) bool { return p.eaten[pod.UID] }) {
		return fmt.Errorf("%d pods are evicted; shown that it is short: %t", len(p.evicted), p.shown)
	}
	return nil
}

// replaced returns nil when the edge is no longer short, and each pod that was evicted has a stand-in that runs.
func (p *pressure) replaced() error {
	if err := p.look(); err != nil {
		return err
	}
	api, err := p.w.localAPI()
	if err != nil {
		return err
	}
	node, err := api.CoreV1().Nodes().Get(p.ctx, edgeName, metav1.GetOptions{})
	if err == nil && pressed(node) {
		err = errors.New("the edge shows that it is short")
	}
	if err != nil {
		return err
	}
	all, err := api.CoreV1().Pods(namespace).List(p.ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	standIns := map[string]*corev1.Pod{}
	for i := range all.Items {
		if uid := all.Items[i].Annotations[object.AnnotationStandInForUID]; uid != "" {
			standIns[uid] = &all.Items[i]
		}
	}
	for i := range p.evicted {
		if p.idle[p.evicted[i].UID] {
			continue
		}
		if err := runs(standIns[string(p.evicted[i].UID)]); err != nil {
			return fmt.Errorf("the stand-in for pod %s: %w", p.evicted[i].Name, err)
		}
	}
	return nil
}

// heard looks at what the cluster knows once all is at rest, and takes the pods of the fault away.
func (p *pressure) heard(ctx context.Context) error {
	var faults []error
	for i := range p.evicted {
		faults = append(faults, p.heardOf(ctx, &p.evicted[i]))
	}
	core, apps := p.w.Admin.CoreV1().Pods(namespace), p.w.Admin.AppsV1().Deployments(namespace)
	static, err := core.Get(ctx, p.mirror(), metav1.GetOptions{})
	if err == nil {
		err = runs(static)
	}
	if err == nil && static.Status.ContainerStatuses[0].ContainerID != p.container {
		err = errors.New("its container was started anew")
	}
	if err != nil {
		faults = append(faults, fmt.Errorf("the static pod afterwards: %w", err))
	}
	faults = append(faults, until(ctx, restWithin, "the Deployment to have its pods again", func() error {
		d, err := apps.Get(ctx, glutton, metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != gluttons {
			err = fmt.Errorf("%d of %d are available", d.Status.AvailableReplicas, gluttons)
		}
		return err
	}))
	return errors.Join(append(faults, apps.Delete(ctx, glutton, metav1.DeleteOptions{}), os.Remove(p.manifest()))...)
}

// heardOf returns nil if a pod that was evicted was one of those that are to go first, and the cluster was told of it once.
func (p *pressure) heardOf(ctx context.Context, pod *corev1.Pod) error {
	if p.idle[pod.UID] {
		return nil // its controller may have taken it away
	}
	if !p.eaten[pod.UID] {
		return fmt.Errorf("pod %s was evicted too: %s", pod.Name, pod.Status.Message)
	}
	now, err := p.w.Admin.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err == nil && !isEvicted(now) {
		err = fmt.Errorf("the cluster shows it as %s, with conditions %+v", now.Status.Phase, now.Status.Conditions)
	}
	if err != nil {
		return fmt.Errorf("pod %s, which was evicted: %w", pod.Name, err)
	}
	events, err := p.w.Admin.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Evicted,involvedObject.uid=" + string(pod.UID)})
	if err != nil {
		return err
	}
	told := 0
	for i := range events.Items {
		told += max(1, int(events.Items[i].Count))
	}
	if told != 1 {
		return fmt.Errorf("%d events say that pod %s was evicted", told, pod.Name)
	}
	return nil
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// isEvicted reports whether the kubelet ended a pod for the sake of others. One whose containers end well on that is Succeeded,
// without a reason.
func isEvicted(p *corev1.Pod) bool {
	return ended(p) && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonTerminationByKubelet
	})
}

// pressed reports whether a Node is short of space.
func pressed(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeDiskPressure {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
