package state

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// A ref names an object that another one needs on a node.
type ref struct {
	kind object.ID
	name name
}

// A refSet collects references without duplicates and without empty names.
type refSet struct {
	namespace string
	list      []ref
	seen      map[ref]struct{}
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

func (s *refSet) add(kind object.ID, n string) { s.addIn(kind, s.namespace, n) }

func (s *refSet) secret(r *corev1.LocalObjectReference) {
	if r != nil {
		s.add(object.Secrets, r.Name)
	}
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

// podRefs returns what the Node authorizer lets a node get because the pod runs there. A mirror pod, which the node
// itself makes, gives access to nothing.
func podRefs(p *corev1.Pod) []ref {
	if object.IsMirror(p) {
		return nil
	}
	s := &refSet{namespace: p.Namespace}
	s.add(object.ServiceAccounts, p.Spec.ServiceAccountName)
	for _, r := range p.Spec.ImagePullSecrets {
		s.add(object.Secrets, r.Name)
	}
	for i := range p.Spec.InitContainers {
		s.container(p.Spec.InitContainers[i].Env, p.Spec.InitContainers[i].EnvFrom)
	}
	for i := range p.Spec.Containers {
		s.container(p.Spec.Containers[i].Env, p.Spec.Containers[i].EnvFrom)
	}
	for i := range p.Spec.EphemeralContainers {
		c := &p.Spec.EphemeralContainers[i].EphemeralContainerCommon
		s.container(c.Env, c.EnvFrom)
	}
	for i := range p.Spec.Volumes {
		s.volume(p, &p.Spec.Volumes[i])
	}
	s.claims(p)
	return s.list
}

func (s *refSet) container(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, f := range from {
		if f.SecretRef != nil {
			s.add(object.Secrets, f.SecretRef.Name)
		}
		if f.ConfigMapRef != nil {
			s.add(object.ConfigMaps, f.ConfigMapRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			s.add(object.Secrets, r.Name)
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			s.add(object.ConfigMaps, r.Name)
		}
	}
}

// volume adds what one volume needs. The API server lets a volume have one source only.
func (s *refSet) volume(p *corev1.Pod, v *corev1.Volume) {
	switch {
	case v.ConfigMap != nil:
		s.add(object.ConfigMaps, v.ConfigMap.Name)
	case v.Secret != nil:
		s.add(object.Secrets, v.Secret.SecretName)
	case v.Projected != nil:
		for _, src := range v.Projected.Sources {
			if src.ConfigMap != nil {
				s.add(object.ConfigMaps, src.ConfigMap.Name)
			}
			if src.Secret != nil {
				s.add(object.Secrets, src.Secret.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		s.add(object.PersistentVolumeClaims, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		// The name that the ephemeral volume controller gives (documented with generic ephemeral volumes).
		s.add(object.PersistentVolumeClaims, p.Name+"-"+v.Name)
	case v.CSI != nil:
		s.secret(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		s.add(object.Secrets, v.AzureFile.SecretName)
	case v.CephFS != nil:
		s.secret(v.CephFS.SecretRef)
	case v.Cinder != nil:
		s.secret(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		s.secret(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		s.secret(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		s.secret(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		s.secret(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		s.secret(v.StorageOS.SecretRef)
	}
}

// claims adds the ResourceClaims: named in the spec, made from a template (the status then has the name), or made by
// the scheduler for extended resources.
func (s *refSet) claims(p *corev1.Pod) {
	for _, c := range p.Spec.ResourceClaims {
		switch {
		case c.ResourceClaimName != nil:
			s.add(object.ResourceClaims, *c.ResourceClaimName)
		case c.ResourceClaimTemplateName != nil:
			for _, st := range p.Status.ResourceClaimStatuses {
				if st.Name == c.Name {
					if st.ResourceClaimName != nil {
						s.add(object.ResourceClaims, *st.ResourceClaimName)
					}
					break
				}
			}
		}
	}
	if st := p.Status.ExtendedResourceClaimStatus; st != nil {
		s.add(object.ResourceClaims, st.ResourceClaimName)
	}
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
