package autonomy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/edge/horizon"
	"github.com/tether-edge/tether/edge/image"
)

// sources reads what a node depends on.
type sources struct {
	cfg  *v1alpha1.EdgeCore
	deps Deps
}

func (s *sources) Linked() bool { return s.deps.Linked() }

// Certificate reads the file, which says more than the certificate in it.
func (s *sources) Certificate(context.Context) (horizon.Certificate, error) {
	data, err := os.ReadFile(s.cfg.Cloud.CertFile)
	if err != nil {
		return horizon.Certificate{}, err
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return horizon.Certificate{}, fmt.Errorf("%s: %w", s.cfg.Cloud.CertFile, err)
	}
	renewable, _ := pki.Renewable(data)
	return horizon.Certificate{NotAfter: certs[0].NotAfter, Renewable: renewable}, nil
}

// Pods looks at each pod of the store, held ones included. Those that it returns beside an error are right.
func (s *sources) Pods(ctx context.Context) (pods []horizon.Pod, err error) {
	records, _, err := s.deps.Store.List(ctx, object.Pods, "")
	if err != nil {
		return nil, err
	}
	tokens, err := s.deps.Store.TokenEnds(ctx)
	if err != nil {
		return nil, err
	}
	now, look := s.deps.Now(), &look{s: s, here: map[string]image.Local{}}
	var faults []error
	for _, r := range records {
		p, err := decode[*corev1.Pod](r)
		if err == nil {
			var pod horizon.Pod
			if pod, err = look.pod(ctx, p, now); err == nil {
				pod.Token = tokens[string(p.UID)]
				if p.Annotations[object.AnnotationFence] == "true" && !object.IsMirror(p) { // nobody fences those
					pod.Fence, pod.Fences = s.deps.FenceIn()
				}
				pods = append(pods, pod)
				continue
			}
		}
		if faults = append(faults, err); errors.Is(err, image.ErrNotServing) || ctx.Err() != nil {
			break // the others would say the same
		}
	}
	return pods, errors.Join(faults...)
}

// look is one look at the images of all pods.
type look struct {
	s *sources
	// here are the images that no credentials matter for, by name.
	here map[string]image.Local
}

func (l *look) pod(ctx context.Context, p *corev1.Pod, now time.Time) (pod horizon.Pod, err error) {
	pod = horizon.Pod{Name: p.Namespace + "/" + p.Name, NeedsToken: horizon.NeedsToken(p)}
	for _, need := range horizon.Needs(p, now) {
		var local image.Local
		if need.Asked {
			local, err = l.asked(ctx, p, need.Image)
		} else {
			local, err = l.kept(ctx, need.Image)
		}
		if err != nil {
			return pod, err
		}
		pod.Images = append(pod.Images, horizon.Image{Need: need, Here: local.Here, Given: local.Given})
	}
	return pod, nil
}

// kept looks for an image that is not asked for where it is here.
func (l *look) kept(ctx context.Context, name string) (image.Local, error) {
	if local, ok := l.here[name]; ok {
		return local, nil
	}
	local, err := l.s.deps.Images.Look(ctx, name, nil)
	if err == nil {
		l.here[name] = local
	}
	return local, err
}

// asked looks for an image as the kubelet would ask for it in the pod's name. A Secret that is not here, or cannot be read, is
// left out, as there.
func (l *look) asked(ctx context.Context, p *corev1.Pod, name string) (image.Local, error) {
	var secrets []corev1.Secret
	for _, ref := range p.Spec.ImagePullSecrets {
		rec, ok, err := l.s.deps.Store.Get(ctx, object.Key{Kind: object.Secrets, Namespace: p.Namespace, Name: ref.Name})
		if err != nil {
			return image.Local{}, err
		}
		if !ok || rec.Sealed {
			continue
		}
		secret, err := decode[*corev1.Secret](rec)
		if err != nil {
			return image.Local{}, err
		}
		secrets = append(secrets, *secret)
	}
	credentials, err := l.s.deps.Credentials(name, secrets)
	if err != nil {
		// The kubelet does not pull then: nothing was given.
		local, err := l.s.deps.Images.Look(ctx, name, nil)
		local.Given = false
		return local, err
	}
	return l.s.deps.Images.Look(ctx, name, credentials)
}

// Outbox returns the classes with a quota of which something waits.
func (s *sources) Outbox(ctx context.Context) (queues []horizon.Queue, err error) {
	waiting, err := s.deps.Store.Waiting(ctx)
	quota := int64(s.cfg.Store.EventQuota)
	for _, w := range waiting {
		// A quota of nothing keeps nothing, by the operator's will.
		if w.Class != stateClass && quota > 0 {
			queues = append(queues, horizon.Queue{Class: w.Class, Used: w.Bytes, Quota: quota})
		}
	}
	return queues, err
}

// stateClass is the class without a quota: a newer state takes an older one's place.
const stateClass = "state"
