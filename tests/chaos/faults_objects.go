package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// patience is how long a fault that needs the API server tries.
const patience = time.Minute

func objectFaults() []Fault {
	const followed = "The edge follows when it is back: what is gone ends, what is new starts, nothing stays behind."
	// offline does something while the cable is out.
	offline := func(do func(*fault) error) func(*fault) (func() error, error) {
		return func(f *fault) (func() error, error) {
			better, err := f.w.cable.worsen(trouble{out: true})
			if err != nil {
				return nil, err
			}
			return better, do(f)
		}
	}
	return []Fault{
		{Name: "node-deleted", Class: Object, What: "Somebody deletes the Node.", Promise: "It is made again within seconds, and nothing on the site stops.", Least: 2 * time.Second, Most: 10 * time.Second, begin: deleteNode},
		{Name: "pod-deleted", Class: Object, What: "A pod is deleted while the cable is out; its controller makes another.", Promise: followed, Least: 5 * time.Second, Most: 20 * time.Second, begin: offline(deletePod(nil))},
		{Name: "pod-forced", Class: Object, What: "A pod is deleted without waiting for the node (grace 0) while the cable is out.", Promise: followed, Least: 5 * time.Second, Most: 20 * time.Second, begin: offline(deletePod(new(int64(0))))},
		{Name: "pod-replaced", Class: Object, What: "A pod of the StatefulSet ends on the edge by the cluster's word, which the cluster does not hear: it is deleted there by force and replaced under its name.",
			Promise: followed + " The new pod is not taken for the old one.", Least: 10 * time.Second, Most: 20 * time.Second, Alone: true, Replaces: true, begin: replacePod},
		{Name: "namespace-deleted", Class: Object, What: "A namespace with a running pod is deleted while the cable is out.", Promise: followed, Least: 5 * time.Second, Most: 20 * time.Second, Alone: true, begin: deleteNamespace},
		{Name: "device-moved", Class: Object, What: "A device moves to another node, or back, while the cable is out.", Promise: followed, Least: 5 * time.Second, Most: 20 * time.Second, begin: offline(moveDevice)},
		{Name: "ca-rotated", Class: Object, What: "The edge CA is replaced while the cable is out.", Promise: "The node comes back with the certificate that it has.", Least: 5 * time.Second, Most: 15 * time.Second, begin: offline(rotateCA)},
	}
}

func deleteNode(f *fault) (func() error, error) {
	return nothing, until(f.ctx, patience, "the Node to be deleted", func() error {
		return f.w.Admin.CoreV1().Nodes().Delete(f.ctx, edgeName, metav1.DeleteOptions{})
	})
}

func deletePod(grace *int64) func(*fault) error {
	return func(f *fault) error {
		pods := f.w.Admin.CoreV1().Pods(namespace)
		return until(f.ctx, patience, "a pod to be deleted", func() error {
			l, err := pods.List(f.ctx, metav1.ListOptions{LabelSelector: "app=web"})
			if err != nil || len(l.Items) == 0 {
				return fmt.Errorf("%d pods of the Deployment: %w", len(l.Items), err)
			}
			err = pods.Delete(f.ctx, l.Items[f.rand.IntN(len(l.Items))].Name, metav1.DeleteOptions{GracePeriodSeconds: grace})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
}

// replacePod leaves the edge with a deletion to tell of, of a pod whose name another one has by then.
func replacePod(f *fault) (func() error, error) {
	const name = dataPod
	pods := f.w.Admin.CoreV1().Pods(namespace)
	old, err := pods.Get(f.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	deaf, err := f.w.cable.worsen(trouble{up: hole})
	if err != nil {
		return nil, err
	}
	if err := pods.Delete(f.ctx, name, metav1.DeleteOptions{}); err != nil {
		return deaf, err
	}
	local, err := f.w.localAPI()
	if err != nil {
		return deaf, err
	}
	err = until(f.ctx, patience, "the pod to end on the edge", func() error {
		p, err := local.CoreV1().Pods(namespace).Get(f.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is there: deleted at %s", p.DeletionTimestamp)
		}
		return err
	})
	if err != nil {
		return deaf, err
	}
	if err := pods.Delete(f.ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &old.UID}}); err != nil {
		return deaf, err
	}
	var next *corev1.Pod
	err = until(f.ctx, patience, "another pod of that name", func() error {
		next, err = pods.Get(f.ctx, name, metav1.GetOptions{})
		if err == nil && next.UID == old.UID {
			err = errors.New("it is the former one")
		}
		return err
	})
	f.load.afterwards(func(ctx context.Context) error {
		p, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err == nil && p.UID != next.UID {
			err = fmt.Errorf("pod %s had uid %s, was replaced by %s while the edge was not heard, and that one is gone too: now it is %s", name, old.UID, next.UID, p.UID)
		}
		return err
	})
	return deaf, err
}

func deleteNamespace(f *fault) (func() error, error) {
	core := f.w.Admin.CoreV1()
	name := fmt.Sprintf("doomed-%d", f.rand.Uint32())
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := core.Namespaces().Create(f.ctx, ns, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("make a namespace: %w", err)
	}
	err := until(f.ctx, patience, "a pod in the namespace to run", func() error {
		_, err := core.Pods(name).Create(f.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}, Spec: podSpec("serve")}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		p, err := core.Pods(name).Get(f.ctx, "tenant", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s", p.Status.Phase)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	better, err := f.w.cable.worsen(trouble{out: true})
	if err != nil {
		return nil, err
	}
	return better, core.Namespaces().Delete(f.ctx, name, metav1.DeleteOptions{})
}

func moveDevice(f *fault) error {
	return until(f.ctx, patience, "the device to be moved", func() error {
		d, err := f.load.devices.Get(f.ctx, "pump-2", metav1.GetOptions{})
		if err != nil {
			return err
		}
		to := edgeName
		if spec, _ := d.Object["spec"].(map[string]any); spec["nodeName"] == edgeName {
			to = "elsewhere"
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"nodeName": to}})
		if err != nil {
			return err
		}
		_, err = f.load.devices.Patch(f.ctx, "pump-2", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
}

func rotateCA(f *fault) error {
	return until(f.ctx, patience, "the edge CA to be replaced", func() error {
		_, err := f.w.Keadm(f.ctx, "certs", "rotate")
		return err
	})
}
