package edgecore

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/image"
	"github.com/tether-edge/tether/edge/store"
)

// imageProofs is the bucket of notes that say whom registries gave which images.
const imageProofs = "image/proofs"

// ReasonServedLocally is the reason of the Event at a pod that an image serves which is here, since its registry was not heard.
const ReasonServedLocally = "RegistryNotHeard"

// buildImages makes the image service that stands between the kubelet and the runtime.
func (e *EdgeCore) buildImages() error {
	k, i := e.cfg.Kubelet, e.cfg.Images
	endpoint := k.ImageServiceEndpoint
	if endpoint == "" {
		endpoint = k.ContainerRuntimeEndpoint
	}
	recorder, err := e.recorder()
	if err != nil {
		return err
	}
	e.images, err = image.New(image.Config{Socket: i.Socket, ImageEndpoint: endpoint, RuntimeEndpoint: k.ContainerRuntimeEndpoint,
		FallBack: i.FallBack, Patience: i.Patience.Std(), MaxPulls: i.MaxPulls},
		image.Deps{Memory: imageMemory{e.store}, Pods: podImages{e.store}.names, Log: e.part("image"), Registry: e.reg, Now: e.deps.Now,
			Served: func(s image.Served) {
				pod := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: s.Pod.Namespace, Name: s.Pod.Name, UID: types.UID(s.Pod.UID)}
				recorder.Eventf(pod, corev1.EventTypeWarning, ReasonServedLocally, "The registry of image %q was not heard, so the image that is here serves (%s): %s", s.Image, s.Ref, s.Reason)
			}})
	return err
}

// recorder makes Events at the local API, gathered and limited as the kubelet's are.
func (e *EdgeCore) recorder() (record.EventRecorder, error) {
	client, err := corev1client.NewForConfig(&rest.Config{Host: "https://" + e.cfg.API.BindAddress, Transport: e.api.Transport()})
	if err != nil {
		return nil, fmt.Errorf("make a client for events: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: client.Events("")})
	// The cloud takes events of this node only.
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "edgecore", Host: e.cfg.NodeName}), nil
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
