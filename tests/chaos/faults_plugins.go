package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func pluginFaults() []Fault {
	return []Fault{
		{Name: "plugin-late", Class: Edge, What: "The power fails while the cable is out, and after the boot a device plugin comes late.",
			Promise: "The pod that has its device waits for it, and is not rejected.", Least: 2 * time.Second, Most: 8 * time.Second, Restarts: true, Forgets: handful, Alone: true, begin: latePlugin},
		{Name: "csi-restarted", Class: Edge, What: "A CSI driver ends while the cable is out, the agent is killed, and the driver comes back.",
			Promise: "The driver is registered again offline, and the pod with its volume goes on.", Least: 5 * time.Second, Most: 15 * time.Second, Forgets: handful, Alone: true, begin: restartDriver},
	}
}

// guest makes a pod for the time of a fault and waits until it runs. What is left of it is looked at once all is at rest: it
// has to be the same pod, and to run, with the same container if nothing ends those; then it goes.
func (f *fault) guest(name string, spec corev1.PodSpec, sameContainer bool) (*corev1.Pod, error) {
	pods := f.w.Admin.CoreV1().Pods(namespace)
	var pod *corev1.Pod
	err := until(f.ctx, patience, "pod "+name+" to run", func() error {
		_, err := pods.Create(f.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		pod, err = pods.Get(f.ctx, name, metav1.GetOptions{})
		if err == nil && pod.DeletionTimestamp != nil {
			err = errors.New("the one of an earlier fault is not gone yet")
		}
		return errors.Join(err, runs(pod))
	})
	if err != nil {
		return nil, err
	}
	f.load.afterwards(func(ctx context.Context) error {
		now, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err == nil && now.UID != pod.UID {
			err = errors.New("it is another one of the name")
		}
		if err == nil && len(now.Status.ContainerStatuses) == 0 {
			err = errors.New("it has no container")
		}
		if err == nil && sameContainer && now.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
			err = errors.New("its container was started anew")
		}
		if err := errors.Join(err, runs(now)); err != nil {
			return fmt.Errorf("pod %s afterwards: %w", name, err)
		}
		return pods.Delete(ctx, name, metav1.DeleteOptions{})
	})
	return pod, nil
}

// runs returns nil for a pod that is Running and Ready.
func runs(p *corev1.Pod) error {
	if p == nil {
		return errors.New("there is none")
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.Status.Phase == corev1.PodRunning {
			return nil
		}
	}
	return fmt.Errorf("it is %s and not Ready: %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
}

// onTheEdge waits until the edge itself shows the pod as one that runs: in the same container, or in another one once the
// power is back. Until the kubelet has looked the edge shows what was true before the cut, a Ready pod among it.
func (f *fault) onTheEdge(pod *corev1.Pod, sameContainer bool) error {
	api, err := f.w.localAPI()
	if err != nil {
		return err
	}
	return until(f.ctx, restWithin, "pod "+pod.Name+" to run offline", func() error {
		p, err := api.CoreV1().Pods(namespace).Get(f.ctx, pod.Name, metav1.GetOptions{})
		if err == nil && p.UID != pod.UID {
			err = errors.New("it is another one of the name")
		}
		if err == nil && len(p.Status.ContainerStatuses) == 0 {
			return errors.Join(errors.New("it has no container"), runs(p))
		}
		if err == nil && (p.Status.ContainerStatuses[0].ContainerID == pod.Status.ContainerStatuses[0].ContainerID) != sameContainer {
			err = fmt.Errorf("its container is %s", p.Status.ContainerStatuses[0].ContainerID)
		}
		return errors.Join(err, runs(p))
	})
}

func latePlugin(f *fault) (func() error, error) {
	p := &plugin{host: f.w.edge.EdgeHost}
	if err := until(f.ctx, patience, "the kubelet to know the plugin", func() error { return p.start(f.ctx) }); err != nil {
		return nil, err
	}
	err := until(f.ctx, patience, "the Node to show the device", func() error {
		n, err := f.w.Admin.CoreV1().Nodes().Get(f.ctx, edgeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if q := n.Status.Allocatable[eyes]; q.Value() != 1 {
			return fmt.Errorf("it shows %s", q.String())
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	spec := podSpec("serve")
	spec.Containers[0].Resources.Limits = corev1.ResourceList{eyes: resource.MustParse("1")}
	pod, err := f.guest("eye", spec, false)
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	better, err := f.w.cable.worsen(trouble{out: true})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	boot, err := cutPower(f)
	if err := errors.Join(err, p.stop()); err != nil {
		return nil, err
	}
	return func() error {
		if err := boot(); err != nil {
			return err
		}
		err := f.shows("the pod to wait for its device", "tether_edge_api_pods_waiting_for_devices", 1)
		if err == nil {
			err = until(f.ctx, patience, "the kubelet to know the plugin", func() error { return p.start(f.ctx) })
		}
		if err == nil {
			err = f.onTheEdge(pod, false)
		}
		f.load.afterwards(func(context.Context) error { return p.stop() })
		return errors.Join(err, better())
	}, nil
}

func restartDriver(f *fault) (func() error, error) {
	_, err := f.w.Admin.StorageV1().CSIDrivers().Create(f.ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: tanks},
		Spec: storagev1.CSIDriverSpec{AttachRequired: new(false), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make the CSI driver known: %w", err)
	}
	d := &driver{host: f.w.edge.EdgeHost}
	if err := d.start(); err != nil {
		return nil, err
	}
	if err := until(f.ctx, patience, "the cluster to know the driver", func() error { return registered(f.ctx, f.w.Admin) }); err != nil {
		return nil, err
	}
	spec := podSpec("serve")
	spec.Volumes = []corev1.Volume{{Name: "tank", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: tanks}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tank", MountPath: "/tank"}}
	pod, err := f.guest("tank", spec, true)
	if err != nil {
		return nil, err
	}
	better, err := f.w.cable.worsen(trouble{out: true})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.stop(), f.w.killCore()); err != nil {
		return better, err
	}
	return func() error {
		if err := d.start(); err != nil {
			return err
		}
		api, err := f.w.localAPI()
		if err != nil {
			return err
		}
		err = until(f.ctx, patience, "the edge to know the driver", func() error { return registered(f.ctx, api) })
		if err == nil {
			err = f.onTheEdge(pod, true)
		}
		f.load.afterwards(func(ctx context.Context) error { return registered(ctx, f.w.Admin) })
		return errors.Join(err, better())
	}, nil
}

// registered returns nil when the node's CSINode lists the driver.
func registered(ctx context.Context, client kubernetes.Interface) error {
	n, err := client.StorageV1().CSINodes().Get(ctx, edgeName, metav1.GetOptions{})
	if err == nil && !slices.ContainsFunc(n.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == tanks }) {
		err = fmt.Errorf("the CSINode has drivers %v", n.Spec.Drivers)
	}
	return err
}
