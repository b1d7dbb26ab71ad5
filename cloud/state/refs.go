package state

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// A ref names an object that another one needs on a node.
type ref struct {
	kind object.ID
	name name
}

// A refSet collects references without duplicates and without empty names.
type refSet struct {
	list []ref
	seen map[ref]struct{}
}

func (s *refSet) addIn(kind object.ID, namespace, n string) {
	r := ref{kind, name{namespace, n}}
	if n == "" {
		return
	}
	if _, dup := s.seen[r]; dup {
		return
	}
	if s.seen == nil {
		s.seen = map[ref]struct{}{}
	}
	s.seen[r] = struct{}{}
	s.list = append(s.list, r)
}

// secretIn adds a Secret in the namespace that the reference names, or else in the fallback.
func (s *refSet) secretIn(r *corev1.SecretReference, fallback string) {
	if r == nil {
		return
	}
	namespace := r.Namespace
	if namespace == "" {
		namespace = fallback
	}
	s.addIn(object.Secrets, namespace, r.Name)
}

// podRefs returns what the Node authorizer lets a node get because the pod runs there.
func podRefs(p *corev1.Pod) []ref {
	s := &refSet{}
	object.VisitReferences(p, func(k object.Key) { s.addIn(k.Kind, k.Namespace, k.Name) })
	return s.list
}

// deviceRefs returns the device's model.
func deviceRefs(d *v1beta1.Device) []ref {
	s := &refSet{}
	if d.Spec.DeviceModelRef != nil {
		s.addIn(object.DeviceModels, d.Namespace, d.Spec.DeviceModelRef.Name)
	}
	return s.list
}

// volumeSecrets returns the Secrets that a kubelet needs to mount the volume. Those that only controllers need
// (controllerPublish, controllerExpand) are not among them.
func volumeSecrets(pv *corev1.PersistentVolume) []ref {
	s := &refSet{}
	claim := ""
	if pv.Spec.ClaimRef != nil {
		claim = pv.Spec.ClaimRef.Namespace
	}
	src := &pv.Spec.PersistentVolumeSource
	switch {
	case src.CSI != nil:
		for _, r := range []*corev1.SecretReference{
			src.CSI.NodePublishSecretRef, src.CSI.NodeStageSecretRef, src.CSI.NodeExpandSecretRef,
		} {
			s.secretIn(r, "")
		}
	case src.AzureFile != nil:
		namespace := claim
		if n := src.AzureFile.SecretNamespace; n != nil && *n != "" {
			namespace = *n
		}
		s.addIn(object.Secrets, namespace, src.AzureFile.SecretName)
	case src.CephFS != nil:
		s.secretIn(src.CephFS.SecretRef, claim)
	case src.Cinder != nil:
		s.secretIn(src.Cinder.SecretRef, "")
	case src.FlexVolume != nil:
		s.secretIn(src.FlexVolume.SecretRef, claim)
	case src.RBD != nil:
		s.secretIn(src.RBD.SecretRef, claim)
	case src.ScaleIO != nil:
		s.secretIn(src.ScaleIO.SecretRef, claim)
	case src.ISCSI != nil:
		s.secretIn(src.ISCSI.SecretRef, claim)
	case src.StorageOS != nil:
		if r := src.StorageOS.SecretRef; r != nil {
			s.addIn(object.Secrets, r.Namespace, r.Name)
		}
	}
	return s.list
}
