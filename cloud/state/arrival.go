package state

import (
	"bytes"
	"fmt"
	"unique"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// An arrival is what is kept of an object that a list or watch has brought: its encoded form and what interest needs.
// Objects are turned into arrivals one by one as they come, so that the decoded cluster is never in memory at once.
//
// It is a metav1.Object with a name only, since client-go's stores want to find one.
type arrival struct {
	metav1.ObjectMeta
	name    name
	content *content
	// node of a bound Pod, a VolumeAttachment or a Device.
	node string
	// refs of a Pod, the Secrets of a PersistentVolume, or the model of a Device.
	refs []ref
	// claim of a PersistentVolume.
	claim name
	// collected: see relations.
	collected bool
	// err says why the object could not be taken in. What is known of it stays as it was.
	err error
}

// newArrival takes o, which the caller gives away, apart. It never fails: see arrival.err.
func newArrival(k object.Kind, o object.Object) *arrival {
	a := &arrival{name: name{unique.Make(o.GetNamespace()).Value(), o.GetName()}}
	a.ObjectMeta.Namespace, a.ObjectMeta.Name, a.ObjectMeta.ResourceVersion = a.name.namespace, a.name.name, o.GetResourceVersion()
	version, err := object.VersionOf(o)
	if err != nil {
		a.err = err
		return a
	}
	object.Strip(o)
	o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	data, err := object.Encode(k, o)
	if err != nil {
		a.err = err
		return a
	}
	if len(data) > wire.MaxBody {
		a.err = fmt.Errorf("encoded object has %d bytes, the link carries at most %d", len(data), wire.MaxBody)
		return a
	}
	// The encoder's buffer has room to grow, which would be kept with it.
	a.content = &content{version: version, data: bytes.Clone(data), size: uint32(len(data))}
	switch obj := o.(type) {
	case *corev1.Pod:
		if a.node = obj.Spec.NodeName; a.node != "" {
			a.node = unique.Make(a.node).Value()
			a.refs = podRefs(obj)
			a.collected = collected(obj)
		}
	case *corev1.PersistentVolume:
		if r := obj.Spec.ClaimRef; r != nil {
			a.claim = name{r.Namespace, r.Name}
			a.refs = volumeSecrets(obj)
		}
	case *storagev1.VolumeAttachment:
		a.node = obj.Spec.NodeName
	case *v1beta1.Device:
		if a.node = obj.Spec.NodeName; a.node != "" {
			a.node = unique.Make(a.node).Value()
			a.refs = deviceRefs(obj)
		}
	}
	return a
}

// collected reports whether pod garbage collection has marked the pod because its Node is missing. It does so before
// it deletes (KEP-3329); its other deletions carry no such condition.
func collected(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByPodGC" && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
