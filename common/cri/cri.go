// Package cri asks a container runtime over CRI what the edge's kubelet, its image service and keadm's preflight have to know of it.
//
// It promises to change nothing at the runtime and to guess nothing: what the runtime does not say is empty. edge/kubelet,
// edge/image and common/keadm use it.
package cri

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Cgroup drivers.
const (
	Cgroupfs = "cgroupfs" // the kubelet makes cgroups itself
	Systemd  = "systemd"  // systemd makes them
)

// CgroupDriver returns the runtime's cgroup driver: by RuntimeConfig, or from the configuration that containerd before 2.0
// shows in a verbose status; empty if neither tells.
func CgroupDriver(ctx context.Context, client runtimeapi.RuntimeServiceClient, verbose *runtimeapi.StatusResponse) (string, error) {
	answer, err := client.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return containerdCgroupDriver(verbose.GetInfo()["config"]), nil
	case err != nil:
		return "", err
	case answer.GetLinux() == nil:
		return "", nil
	case answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD:
		return Systemd, nil
	case answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_CGROUPFS:
		return Cgroupfs, nil
	}
	return "", errors.New("unknown driver " + answer.GetLinux().GetCgroupDriver().String())
}

// SandboxImage returns the name of the image that each pod's sandbox runs, from the configuration that containerd before 2.0
// shows in a verbose status; empty if the runtime does not tell. Those that do not (containerd from 2.0, CRI-O) report it as
// pinned themselves.
func SandboxImage(verbose *runtimeapi.StatusResponse) string {
	var c struct {
		SandboxImage string `json:"sandboxImage"`
	}
	if json.Unmarshal([]byte(verbose.GetInfo()["config"]), &c) != nil {
		return ""
	}
	return c.SandboxImage
}

// containerdCgroupDriver reads containerd's CRI configuration as its verbose status shows it (pkg/cri/server/status.go
// of containerd 1.6 and 1.7).
func containerdCgroupDriver(config string) string {
	var c struct {
		Containerd struct {
			DefaultRuntimeName string `json:"defaultRuntimeName"`
			Runtimes           map[string]struct {
				Type    string `json:"runtimeType"`
				Options struct {
					SystemdCgroup bool
				} `json:"options"`
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if json.Unmarshal([]byte(config), &c) != nil {
		return ""
	}
	runtime, ok := c.Containerd.Runtimes[c.Containerd.DefaultRuntimeName]
	switch {
	case !ok || runtime.Type != "io.containerd.runc.v2":
		return ""
	case runtime.Options.SystemdCgroup:
		return Systemd
	}
	return Cgroupfs
}
