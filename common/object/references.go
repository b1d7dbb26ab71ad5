package object

import (
	corev1 "k8s.io/api/core/v1"
)

// VisitReferences calls visit with the key of every object that a pod names and that its kubelet must read to run it:
// ServiceAccount, Secrets, ConfigMaps, PersistentVolumeClaims and ResourceClaims, as the stock Node authorizer counts
// them. A key may be visited more than once. A mirror pod refers to nothing: it must not open doors for its node.
func VisitReferences(pod *corev1.Pod, visit func(Key)) {
	if IsMirror(pod) {
		return
	}
	v := references{pod.Namespace, visit}
	v.add(ServiceAccounts, pod.Spec.ServiceAccountName)
	for _, s := range pod.Spec.ImagePullSecrets {
		v.add(Secrets, s.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		v.environment(c.EnvFrom, c.Env)
	}
	for _, c := range pod.Spec.Containers {
		v.environment(c.EnvFrom, c.Env)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		v.environment(c.EnvFrom, c.Env)
	}
	for i := range pod.Spec.Volumes {
		v.volume(pod.Name, &pod.Spec.Volumes[i])
	}
	v.claims(pod)
}

// references visits names in the namespace of one pod.
type references struct {
	namespace string
	visit     func(Key)
}

func (v references) add(kind ID, name string) {
	if name != "" {
		v.visit(Key{Kind: kind, Namespace: v.namespace, Name: name})
	}
}

func (v references) environment(from []corev1.EnvFromSource, vars []corev1.EnvVar) {
	for _, f := range from {
		if f.SecretRef != nil {
			v.add(Secrets, f.SecretRef.Name)
		}
		if f.ConfigMapRef != nil {
			v.add(ConfigMaps, f.ConfigMapRef.Name)
		}
	}
	for _, e := range vars {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			v.add(Secrets, r.Name)
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			v.add(ConfigMaps, r.Name)
		}
	}
}

func (v references) volume(pod string, vol *corev1.Volume) {
	v.add(Secrets, volumeSecret(&vol.VolumeSource))
	switch {
	case vol.Projected != nil:
		for _, s := range vol.Projected.Sources {
			if s.Secret != nil {
				v.add(Secrets, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				v.add(ConfigMaps, s.ConfigMap.Name)
			}
		}
	case vol.ConfigMap != nil:
		v.add(ConfigMaps, vol.ConfigMap.Name)
	case vol.PersistentVolumeClaim != nil:
		v.add(PersistentVolumeClaims, vol.PersistentVolumeClaim.ClaimName)
	case vol.Ephemeral != nil:
		// The claim of a generic ephemeral volume is named after the pod and the volume.
		v.add(PersistentVolumeClaims, pod+"-"+vol.Name)
	}
}

// volumeSecret returns the name of the one secret that a volume of its kind may refer to, or nothing.
func volumeSecret(s *corev1.VolumeSource) string {
	var ref *corev1.LocalObjectReference
	switch {
	case s.Secret != nil:
		return s.Secret.SecretName
	case s.AzureFile != nil:
		return s.AzureFile.SecretName
	case s.CephFS != nil:
		ref = s.CephFS.SecretRef
	case s.Cinder != nil:
		ref = s.Cinder.SecretRef
	case s.FlexVolume != nil:
		ref = s.FlexVolume.SecretRef
	case s.RBD != nil:
		ref = s.RBD.SecretRef
	case s.ScaleIO != nil:
		ref = s.ScaleIO.SecretRef
	case s.ISCSI != nil:
		ref = s.ISCSI.SecretRef
	case s.StorageOS != nil:
		ref = s.StorageOS.SecretRef
	case s.CSI != nil:
		ref = s.CSI.NodePublishSecretRef
	}
	if ref == nil {
		return ""
	}
	return ref.Name
}

// claims visits the resource claims that exist: those named in the spec, those made from a template (their names are
// in the status) and the one for extended resources.
func (v references) claims(pod *corev1.Pod) {
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			v.add(ResourceClaims, *c.ResourceClaimName)
			continue
		}
		if c.ResourceClaimTemplateName == nil {
			continue
		}
		for _, s := range pod.Status.ResourceClaimStatuses {
			if s.Name == c.Name && s.ResourceClaimName != nil {
				v.add(ResourceClaims, *s.ResourceClaimName)
			}
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		v.add(ResourceClaims, s.ResourceClaimName)
	}
}
