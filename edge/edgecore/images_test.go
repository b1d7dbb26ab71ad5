package edgecore

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/store"
)

// TestEveryImageOfAPodInTheStoreIsNamed, of containers of all kinds and of volumes, and of a pod that the cloud lost.
func TestEveryImageOfAPodInTheStoreIsNamed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := store.Open(ctx, store.Config{Dir: t.TempDir(), NodeName: "edge-1"}, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
	})
	kind, _ := object.Lookup(object.Pods)
	pod := func(name string, spec corev1.PodSpec) store.Incoming {
		t.Helper()
		body, err := object.Encode(kind, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u-1", ResourceVersion: "1"}, Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		return store.Incoming{Key: object.Key{Kind: object.Pods, Namespace: "shop", Name: name}, Version: object.Version{UID: "u-1", RV: 1}, Body: body}
	}
	all := pod("all", corev1.PodSpec{
		InitContainers:      []corev1.Container{{Image: "init"}},
		Containers:          []corev1.Container{{Image: "main"}, {Image: "beside"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: "debug"}}},
		Volumes:             []corev1.Volume{{}, {VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "model"}}}},
	})
	lost := pod("lost", corev1.PodSpec{Containers: []corev1.Container{{Image: "held"}}})
	gone := lost
	gone.Body, gone.Cause = nil, object.CauseNodeGone
	if err := s.ApplyBatch(ctx, []store.Incoming{all, lost}); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyBatch(ctx, []store.Incoming{gone}); err != nil {
		t.Fatal(err)
	}
	names, err := podImages{s}.names(ctx)
	slices.Sort(names)
	if want := []string{"beside", "debug", "held", "init", "main", "model"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("found %q, %v, expected %q", names, err, want)
	}
}
