package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

// criTimeout bounds one call to the runtime.
const criTimeout = 30 * time.Second

// CRI is a connection to an edge host's containerd, as the kubelet has one. Runtime has the whole interface.
type CRI struct {
	Runtime internalapi.RuntimeService
	host    *EdgeHost
}

// Container is what the tests compare of one container.
type Container struct {
	ID        string
	Name      string
	Pod       string
	Namespace string
	PodUID    string
	Attempt   uint32 // 0 for the first container of this name in the pod: its restart count
	Running   bool
}

// CRI connects to the host's containerd. The caller closes it.
func (h *EdgeHost) CRI(ctx context.Context) (*CRI, error) {
	service, err := cri.NewRemoteRuntimeService(ctx, "unix://"+h.Socket(), criTimeout, nil, false)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd of edge host %s: %w", h.name, err)
	}
	return &CRI{Runtime: service, host: h}, nil
}

// Close ends the connection.
func (c *CRI) Close() error { return c.Runtime.Close(context.Background()) }

// Ready returns nil when the runtime and the pod network are ready, and otherwise which is not and why.
func (c *CRI) Ready(ctx context.Context) error {
	status, err := c.Runtime.Status(ctx, false)
	if err != nil {
		return fmt.Errorf("ask containerd for its status: %w", err)
	}
	var faults []error
	for _, condition := range status.GetStatus().GetConditions() {
		if !condition.Status {
			faults = append(faults, fmt.Errorf("%s is false: %s %s", condition.Type, condition.Reason, condition.Message))
		}
	}
	return errors.Join(faults...)
}

// Containers lists the containers that the runtime knows, ended ones included.
func (c *CRI) Containers(ctx context.Context) ([]Container, error) {
	list, err := c.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list the containers of edge host %s: %w", c.host.name, err)
	}
	var found []Container
	for _, item := range list {
		// The labels are the kubelet's, k8s.io/kubernetes/pkg/kubelet/types/labels.go.
		found = append(found, Container{
			ID:        item.Id,
			Name:      item.GetMetadata().GetName(),
			Pod:       item.Labels["io.kubernetes.pod.name"],
			Namespace: item.Labels["io.kubernetes.pod.namespace"],
			PodUID:    item.Labels["io.kubernetes.pod.uid"],
			Attempt:   item.GetMetadata().GetAttempt(),
			Running:   item.State == runtimeapi.ContainerState_CONTAINER_RUNNING,
		})
	}
	return found, nil
}

// PodIP returns the address of a sandbox.
func (c *CRI) PodIP(ctx context.Context, sandboxID string) (string, error) {
	status, err := c.Runtime.PodSandboxStatus(ctx, sandboxID, false)
	if err != nil {
		return "", fmt.Errorf("ask for the address of sandbox %s: %w", sandboxID, err)
	}
	ip := status.GetStatus().GetNetwork().GetIp()
	if ip == "" {
		return "", fmt.Errorf("ask for the address of sandbox %s: expected one, found none", sandboxID)
	}
	return ip, nil
}

// RunContainer starts a pod with one container without any kubelet, and returns the ids of its sandbox and container.
func (c *CRI) RunContainer(ctx context.Context, name, image string, args ...string) (sandboxID, containerID string, err error) {
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		Hostname:     name,
		LogDirectory: "/var/log/pods/" + name,
		Labels: map[string]string{
			"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": name + "-uid",
		},
		// Without a parent the runtime would make a group outside of the host's own.
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: c.host.Cgroup() + "/pods"},
	}
	if err := makeCgroup(c.host.cluster.machine.Hierarchies, c.host.Cgroup()+"/pods/x"); err != nil {
		return "", "", err
	}
	if sandboxID, err = c.Runtime.RunPodSandbox(ctx, sandbox, ""); err != nil {
		return "", "", fmt.Errorf("run a sandbox: %w", err)
	}
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Args:     args,
		Labels:   sandbox.Labels,
		LogPath:  "0.log",
	}
	if containerID, err = c.Runtime.CreateContainer(ctx, sandboxID, container, sandbox); err != nil {
		return sandboxID, "", fmt.Errorf("create a container: %w", err)
	}
	if err := c.Runtime.StartContainer(ctx, containerID); err != nil {
		return sandboxID, containerID, fmt.Errorf("start a container: %w", err)
	}
	return sandboxID, containerID, nil
}
