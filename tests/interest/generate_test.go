package interest

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// A generator makes objects with few names, so that they meet.
type generator struct{ *rand.Rand }

func (g generator) name(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, g.IntN(n)) }
func (g generator) namespace() string                { return g.name("ns", 3) }
func (g generator) node() string                     { return g.name("node", 4) }
func (g generator) secret() string                   { return g.name("secret", 8) }
func (g generator) configMap() string                { return g.name("cm", 8) }
func (g generator) claim() string                    { return g.name("pvc", 6) }
func (g generator) one(n int) bool                   { return g.IntN(n) == 0 }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// object returns an object other than a pod.
func (g generator) object() object.Object {
	switch g.IntN(16) {
	case 0, 1, 2:
		return &corev1.Secret{ObjectMeta: meta(g.namespace(), g.secret())}
	case 3, 4:
		return &corev1.ConfigMap{ObjectMeta: meta(g.namespace(), g.configMap())}
	case 5, 6:
		name := g.claim()
		if g.one(2) { // the claim of an ephemeral volume
			name = g.name("pod", 10) + "-vol-" + g.name("", 5)
		}
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta(g.namespace(), name)}
	case 7, 8, 9:
		return g.volume()
	case 10:
		return &corev1.ServiceAccount{ObjectMeta: meta(g.namespace(), g.name("sa", 3))}
	case 11:
		return &storagev1.VolumeAttachment{ObjectMeta: meta("", g.name("va", 6)), Spec: storagev1.VolumeAttachmentSpec{NodeName: g.node()}}
	case 12:
		return &resourcev1.ResourceClaim{ObjectMeta: meta(g.namespace(), g.name("claim", 6))}
	case 13:
		return &corev1.Node{ObjectMeta: meta("", g.node())}
	case 14:
		return &corev1.Service{ObjectMeta: meta(g.namespace(), g.name("svc", 3))}
	}
	switch g.IntN(4) {
	case 0:
		return &storagev1.CSINode{ObjectMeta: meta("", g.node())}
	case 1:
		return &storagev1.CSIDriver{ObjectMeta: meta("", g.name("driver", 3))}
	case 2:
		return &nodev1.RuntimeClass{ObjectMeta: meta("", g.name("rc", 3)), Handler: "h"}
	}
	return &corev1.Service{ObjectMeta: meta("default", "kubernetes")}
}

func (g generator) secretReference() *corev1.SecretReference {
	if g.one(8) {
		return nil
	}
	r := &corev1.SecretReference{Name: g.secret()}
	if !g.one(3) {
		r.Namespace = g.namespace()
	}
	return r
}

func (g generator) volume() *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{ObjectMeta: meta("", g.name("pv", 8))}
	if !g.one(5) {
		name := g.claim()
		if g.one(3) {
			name = g.name("pod", 10) + "-vol-" + g.name("", 5)
		}
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: g.namespace(), Name: name}
	}
	s := &pv.Spec.PersistentVolumeSource
	switch g.IntN(10) {
	case 0:
		s.AzureFile = &corev1.AzureFilePersistentVolumeSource{SecretName: g.secret()}
		if g.one(2) {
			namespace := g.namespace()
			s.AzureFile.SecretNamespace = &namespace
		}
	case 1:
		s.CephFS = &corev1.CephFSPersistentVolumeSource{SecretRef: g.secretReference()}
	case 2:
		s.Cinder = &corev1.CinderPersistentVolumeSource{SecretRef: g.secretReference()}
	case 3:
		s.FlexVolume = &corev1.FlexPersistentVolumeSource{SecretRef: g.secretReference()}
	case 4:
		s.RBD = &corev1.RBDPersistentVolumeSource{SecretRef: g.secretReference()}
	case 5:
		s.ScaleIO = &corev1.ScaleIOPersistentVolumeSource{SecretRef: g.secretReference()}
	case 6:
		s.ISCSI = &corev1.ISCSIPersistentVolumeSource{SecretRef: g.secretReference()}
	case 7:
		s.StorageOS = &corev1.StorageOSPersistentVolumeSource{SecretRef: &corev1.ObjectReference{Namespace: g.namespace(), Name: g.secret()}}
	default:
		s.CSI = &corev1.CSIPersistentVolumeSource{
			ControllerPublishSecretRef: g.secretReference(), ControllerExpandSecretRef: g.secretReference(),
			NodeStageSecretRef: g.secretReference(), NodePublishSecretRef: g.secretReference(), NodeExpandSecretRef: g.secretReference(),
		}
	}
	return pv
}

func (g generator) pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta(g.namespace(), g.name("pod", 10))}
	if !g.one(6) {
		p.Spec.NodeName = g.node()
	}
	if g.one(8) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	}
	if !g.one(4) {
		p.Spec.ServiceAccountName = g.name("sa", 3)
	}
	for range g.IntN(2) {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: g.secret()})
	}
	for range g.IntN(2) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "i", Env: g.env(), EnvFrom: g.envFrom()})
	}
	for range g.IntN(3) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "c", Env: g.env(), EnvFrom: g.envFrom()})
	}
	for i := range g.IntN(4) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("vol-%d", i), VolumeSource: g.source()})
	}
	for range g.IntN(2) {
		c := corev1.PodResourceClaim{Name: g.name("c", 3)}
		name := g.name("claim", 6)
		if g.one(2) {
			c.ResourceClaimName = &name
		} else {
			c.ResourceClaimTemplateName = &name
		}
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, c)
	}
	g.status(p)
	return p
}

// update returns p as it may become: what a pod refers to can only grow by ephemeral containers and claims, until it
// is bound.
func (g generator) update(p *corev1.Pod) *corev1.Pod {
	switch g.IntN(4) {
	case 0:
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Env: g.env(), EnvFrom: g.envFrom()},
		})
	case 1:
		if p.Spec.NodeName == "" {
			p.Spec.NodeName = g.node()
		}
	case 2:
		p.Status.Phase = corev1.PodSucceeded
	default:
		g.status(p)
	}
	return p
}

func (g generator) status(p *corev1.Pod) {
	p.Status.ResourceClaimStatuses = nil
	for _, c := range p.Spec.ResourceClaims {
		st := corev1.PodResourceClaimStatus{Name: c.Name}
		if name := g.name("claim", 6); !g.one(3) {
			st.ResourceClaimName = &name
		}
		if !g.one(3) {
			p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, st)
		}
	}
	p.Status.ExtendedResourceClaimStatus = nil
	if g.one(6) {
		p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: g.name("claim", 6)}
	}
}

func (g generator) env() (out []corev1.EnvVar) {
	for range g.IntN(2) {
		v := &corev1.EnvVarSource{}
		switch g.IntN(3) {
		case 0:
			v.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: g.secret()}}
		case 1:
			v.ConfigMapKeyRef = &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: g.configMap()}}
		}
		out = append(out, corev1.EnvVar{Name: "E", ValueFrom: v}, corev1.EnvVar{Name: "F", Value: "f"})
	}
	return out
}

func (g generator) envFrom() (out []corev1.EnvFromSource) {
	for range g.IntN(2) {
		if g.one(2) {
			out = append(out, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: g.secret()}}})
		} else {
			out = append(out, corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: g.configMap()}}})
		}
	}
	return out
}

func (g generator) localRef() *corev1.LocalObjectReference {
	if g.one(6) {
		return nil
	}
	return &corev1.LocalObjectReference{Name: g.secret()}
}

func (g generator) source() (s corev1.VolumeSource) {
	switch g.IntN(16) {
	case 0, 1:
		s.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: g.configMap()}}
	case 2:
		s.Secret = &corev1.SecretVolumeSource{SecretName: g.secret()}
	case 3, 4:
		s.Projected = &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: g.secret()}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: g.configMap()}}},
		}}
	case 5, 6:
		s.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: g.claim()}
	case 7:
		s.Ephemeral = &corev1.EphemeralVolumeSource{}
	case 8:
		s.CSI = &corev1.CSIVolumeSource{NodePublishSecretRef: g.localRef()}
	case 9:
		s.AzureFile = &corev1.AzureFileVolumeSource{SecretName: g.secret()}
	case 10:
		s.CephFS = &corev1.CephFSVolumeSource{SecretRef: g.localRef()}
	case 11:
		s.Cinder = &corev1.CinderVolumeSource{SecretRef: g.localRef()}
	case 12:
		s.FlexVolume = &corev1.FlexVolumeSource{SecretRef: g.localRef()}
	case 13:
		s.RBD = &corev1.RBDVolumeSource{SecretRef: g.localRef()}
	case 14:
		s.ScaleIO = &corev1.ScaleIOVolumeSource{SecretRef: g.localRef()}
	default:
		if g.one(2) {
			s.ISCSI = &corev1.ISCSIVolumeSource{SecretRef: g.localRef()}
		} else {
			s.StorageOS = &corev1.StorageOSVolumeSource{SecretRef: g.localRef()}
		}
	}
	return s
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}
