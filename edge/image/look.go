package image

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrNotServing: the service has not started, so the runtime cannot be asked.
var ErrNotServing = errors.New("the image service has not started")

// Local is what is here of an image.
type Local struct {
	// Here: the runtime has it under its name.
	Here bool
	// Given: it would serve a pull while its registry is not heard.
	Given bool
}

// Look says what a pod would find that asks for an image with these credentials, one after the other (nil among them, or none
// at all: without any), while no registry is heard. It asks the runtime and never a registry.
func (s *Service) Look(ctx context.Context, name string, credentials []*runtimeapi.AuthConfig) (Local, error) {
	runtime := s.runtime.Load()
	if runtime == nil {
		return Local{}, ErrNotServing
	}
	var l Local
	var err error
	if l.Here, err = has(ctx, runtime, name); err != nil || !s.cfg.FallBack {
		return l, err
	}
	if len(credentials) == 0 {
		credentials = []*runtimeapi.AuthConfig{nil}
	}
	for _, full := range []string{name, name + ":latest"} { // the kubelet asks for that where there is no tag
		for _, c := range credentials {
			ref := s.proofs.allowed(full, credentialsOf(c))
			if ref == "" || l.Given {
				continue
			}
			if l.Given, err = has(ctx, runtime, ref); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

// has reports whether the runtime has an image of that name or ref. One that is no name has no image.
func has(ctx context.Context, runtime remote, image string) (bool, error) {
	found, err := runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil && !ofTheName(err) {
		return false, fmt.Errorf("ask the runtime for image %s: %w", image, err)
	}
	return found.GetImage() != nil, nil
}

// Mounts returns the directories, one at least, on whose file systems the runtime keeps its images.
func (s *Service) Mounts(ctx context.Context) (mounts []string, err error) {
	runtime := s.runtime.Load()
	if runtime == nil {
		return nil, ErrNotServing
	}
	info, err := runtimeapi.NewImageServiceClient(runtime.images).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime where its images are: %w", err)
	}
	for _, f := range info.GetImageFilesystems() {
		if m := f.GetFsId().GetMountpoint(); m != "" {
			mounts = append(mounts, m)
		}
	}
	if len(mounts) == 0 {
		return nil, errors.New("the runtime does not say where its images are")
	}
	return mounts, nil
}
