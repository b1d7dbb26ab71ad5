package image

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shelf is a runtime with some images, and an error for all others if there is one.
type shelf struct {
	runtimeapi.UnimplementedImageServiceServer
	images []string
	err    error
}

func (s *shelf) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if slices.Contains(s.images, r.Image.Image) {
		return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: r.Image.Image}}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, s.err
}

func (s *shelf) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/images"}}, {}}}, nil
}

func TestWhatAPodWouldFindWithoutARegistry(t *testing.T) {
	s := &shelf{images: []string{"h/open:v1", "h/closed:latest", "h/closed", "sha256:open", "sha256:closed", "h/never:v1", "h/gone:v1"}}
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "runtime.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterImageServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	endpoint := "unix://" + listener.Addr().String()
	images, err := New(Config{Socket: filepath.Join(dir, "i.sock"), ImageEndpoint: endpoint, RuntimeEndpoint: endpoint, FallBack: true},
		Deps{Memory: &notes{}, Pods: func(context.Context) ([]string, error) { return nil, nil }, Log: testLog(t), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Look(t.Context(), "h/open:v1", nil); !errors.Is(err, ErrNotServing) {
		t.Errorf("before it has started: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- images.Start(ctx) }()
	deadline := time.Now().Add(time.Minute)
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if _, err = images.Mounts(t.Context()); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if mounts, err := images.Mounts(t.Context()); err != nil || !slices.Equal(mounts, []string{"/images"}) {
		t.Errorf("the images are in %q, %v", mounts, err)
	}

	ann, bob := &runtimeapi.AuthConfig{Username: "ann", Password: "1"}, &runtimeapi.AuthConfig{Username: "bob", Password: "2"}
	images.proofs.grant(t.Context(), "h/open:v1", nil, "sha256:open")
	images.proofs.grant(t.Context(), "h/closed:latest", credentialsOf(ann), "sha256:closed")
	images.proofs.grant(t.Context(), "h/gone:v1", nil, "sha256:gone")
	for name, c := range map[string]struct {
		image string
		who   []*runtimeapi.AuthConfig
		want  Local
	}{
		"for everybody":                    {"h/open:v1", nil, Local{Here: true, Given: true}},
		"for everybody, with credentials":  {"h/open:v1", []*runtimeapi.AuthConfig{bob}, Local{Here: true, Given: true}},
		"for ann, who names no tag":        {"h/closed", []*runtimeapi.AuthConfig{bob, ann}, Local{Here: true, Given: true}},
		"not for bob":                      {"h/closed", []*runtimeapi.AuthConfig{bob}, Local{Here: true}},
		"not for nobody":                   {"h/closed:latest", nil, Local{Here: true}},
		"imported, never pulled":           {"h/never:v1", nil, Local{Here: true}},
		"the one that was given has gone":  {"h/gone:v1", nil, Local{Here: true}},
		"nowhere":                          {"h/none:v1", nil, Local{}},
		"of the one that has been renamed": {"h/open:v2", nil, Local{}},
	} {
		if got, err := images.Look(t.Context(), c.image, c.who); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, expected %+v", name, got, err, c.want)
		}
	}
	s.err = status.Error(codes.InvalidArgument, "no name")
	if got, err := images.Look(t.Context(), "NO NAME", nil); err != nil || got.Here {
		t.Errorf("a name that is none: %+v, %v", got, err)
	}
	s.err = status.Error(codes.Unavailable, "away")
	if _, err := images.Look(t.Context(), "h/none:v1", nil); err == nil {
		t.Error("a runtime that is away has no image")
	}
	images.cfg.FallBack = false
	if got, err := images.Look(t.Context(), "h/open:v1", nil); err != nil || got != (Local{Here: true}) {
		t.Errorf("without images.fallBack: %+v, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := images.Mounts(t.Context()); !errors.Is(err, ErrNotServing) {
		t.Errorf("after its end: %v", err)
	}
}
