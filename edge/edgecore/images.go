package edgecore

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/store"
)

// imageProofs is the bucket of notes that say whom registries gave which images.
const imageProofs = "image/proofs"

// buildImages makes the image service that stands between the kubelet and the runtime.
func (e *EdgeCore) buildImages(client corev1client.CoreV1Interface) (err error) {
	k, i := e.cfg.Kubelet, e.cfg.Images
	endpoint := k.ImageServiceEndpoint
	if endpoint == "" {
		endpoint = k.ContainerRuntimeEndpoint
	}
	e.served.sink = &corev1client.EventSinkImpl{Interface: client.Events("")}
	e.images, err = image.New(image.Config{Socket: i.Socket, ImageEndpoint: endpoint, RuntimeEndpoint: k.ContainerRuntimeEndpoint,
		FallBack: i.FallBack, Patience: i.Patience.Std(), MaxPulls: i.MaxPulls},
		image.Deps{Memory: imageMemory{e.store}, Pods: podImages{e.store}.names, Log: e.part("image"), Registry: e.reg, Now: e.deps.Now, Served: e.served.add})
	return err
}

// podImages are the images of all pods in the store, held ones included.
type podImages struct{ *store.Store }

func (p podImages) names(ctx context.Context) ([]string, error) {
	records, _, err := p.List(ctx, object.Pods, "")
	if err != nil {
		return nil, err
	}
	kind, ok := object.Lookup(object.Pods)
	if !ok {
		return nil, errors.New("pods are no kind of this program")
	}
	var names []string
	for _, r := range records {
		o, err := object.Decode(kind, r.Body)
		if err != nil {
			return nil, fmt.Errorf("read pod %s: %w", r.Key, err)
		}
		names = append(names, imagesOf(&o.(*corev1.Pod).Spec)...)
	}
	return names, nil
}

// imagesOf are the images that a pod names, its volumes' included.
func imagesOf(spec *corev1.PodSpec) (names []string) {
	for i := range spec.InitContainers {
		names = append(names, spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		names = append(names, spec.Containers[i].Image)
	}
	for i := range spec.EphemeralContainers {
		names = append(names, spec.EphemeralContainers[i].Image)
	}
	for i := range spec.Volumes {
		if v := spec.Volumes[i].Image; v != nil {
			names = append(names, v.Reference)
		}
	}
	return names
}

// imageMemory keeps what the image service wants kept, as notes.
type imageMemory struct{ *store.Store }

func (m imageMemory) Put(ctx context.Context, key string, value []byte) error {
	return m.Keep(ctx, []store.Note{{Bucket: imageProofs, Key: key, Value: value}})
}

func (m imageMemory) Delete(ctx context.Context, keys ...string) error {
	var notes []store.Note
	for _, k := range keys {
		notes = append(notes, store.Note{Bucket: imageProofs, Key: k})
	}
	return m.Keep(ctx, notes)
}

func (m imageMemory) All(ctx context.Context, visit func(key string, value []byte) error) error {
	return m.Notes(ctx, imageProofs, visit)
}
