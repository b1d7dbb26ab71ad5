package cri

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The texts are cut from what containerd 1.6.20 answers to a verbose Status.
func TestCgroupDriverOfOldContainerdIsReadFromItsStatus(t *testing.T) {
	const runc = `{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2","options":{"BinaryName":"","SystemdCgroup":%s}}}}}`
	for config, want := range map[string]string{
		strings.Replace(runc, "%s", "true", 1):                                Systemd,
		strings.Replace(runc, "%s", "false", 1):                               Cgroupfs,
		strings.NewReplacer("%s", "true", "runc.v2", "kata.v2").Replace(runc): "",
		"": "", "{": "", `{"containerd":{"defaultRuntimeName":"none"}}`: "",
	} {
		if got := containerdCgroupDriver(config); got != want {
			t.Errorf("%s: driver %q, expected %q", config, got, want)
		}
	}
}

func TestSandboxImageOfOldContainerdIsReadFromItsStatus(t *testing.T) {
	for config, want := range map[string]string{`{"sandboxImage":"registry.example/pause:3.6"}`: "registry.example/pause:3.6", "": "", "{": "", "{}": ""} {
		if got := SandboxImage(&runtimeapi.StatusResponse{Info: map[string]string{"config": config}}); got != want {
			t.Errorf("%s: sandbox image %q, expected %q", config, got, want)
		}
	}
}
