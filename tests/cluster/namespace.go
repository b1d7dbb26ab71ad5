package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// private are the directories in which an edge host sees its own files instead of the machine's. Those of the first
// list survive a power cut, those of the second do not. The kubelet, containerd's shims and CNI have these paths built
// in: two kubelets on one machine would destroy each other's sockets and mounts there.
var (
	privateDisk = []string{"/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/etc/cni/net.d", "/var/lib/cni"}
	privateRun  = []string{"/run/containerd", "/run/netns"}
)

// startHolder starts the process that holds the host's namespaces and records it.
func (h *EdgeHost) startHolder() error {
	cmd, err := h.cluster.commandIn(h.Cgroup()+"/holder", []string{"sleep", "infinity"})
	if err != nil {
		return fmt.Errorf("hold the namespaces: %w", err)
	}
	// Unshared, not cloned, so that the runtime makes the new mount table private before anything is mounted.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if !h.cluster.state.Keep {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := h.cluster.starter.start(cmd); err != nil {
		return fmt.Errorf("hold the namespaces: %w", err)
	}
	go func() { _ = cmd.Wait() }() // collects it when Down or PowerCut kills it; its exit code says nothing
	holder, err := processIdentity(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("hold the namespaces: %w", err)
	}
	return h.cluster.update(func(s *state) { s.host(h.name).Holder = holder })
}

// mountPrivate gives the host its own directories. It runs inside the host's mount namespace.
func (h *EdgeHost) mountPrivate() error {
	// Shared among this host's own namespaces only, as an init system has it: volumes with mount propagation need it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	for kind, dirs := range map[string][]string{"disk": privateDisk, "run": privateRun} {
		for _, target := range dirs {
			source := h.path(kind, target)
			if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(target, 0o755)); err != nil {
				return fmt.Errorf("make a private %s: %w", target, err)
			}
			if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("make a private %s: mount %s: %w", target, source, err)
			}
			if err := unix.Mount("", target, "", unix.MS_SHARED, ""); err != nil {
				return fmt.Errorf("make a private %s: %w", target, err)
			}
		}
	}
	return nil
}

// enter is the command line that puts a program into the host's namespaces. It keeps the process id.
func (h *EdgeHost) enter() ([]string, error) {
	holder, err := h.holder()
	if err != nil {
		return nil, err
	}
	pid := strconv.Itoa(holder.PID)
	return []string{"nsenter", "--net=/proc/" + pid + "/ns/net", "--mount=/proc/" + pid + "/ns/mnt", "--"}, nil
}

// holder is the running process that holds the namespaces.
func (h *EdgeHost) holder() (identity, error) {
	h.cluster.mu.Lock()
	holder := h.cluster.state.host(h.name).Holder
	h.cluster.mu.Unlock()
	if !holder.alive() {
		return identity{}, fmt.Errorf("edge host %s is not up: the process %d that holds its namespaces is gone", h.name, holder.PID)
	}
	return holder, nil
}

// Inside runs f in the host's network namespace and, if mounts is true, in its mount namespace too. Sockets that f
// opens stay in the namespace. f must not hand work to other goroutines that depends on it.
func (h *EdgeHost) Inside(mounts bool, f func() error) error {
	holder, err := h.holder()
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: a thread in foreign namespaces must end with its goroutine
		if err := joinNamespaces(holder.PID, mounts); err != nil {
			result <- fmt.Errorf("enter edge host %s: %w", h.name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// joinNamespaces moves the calling thread.
func joinNamespaces(pid int, mounts bool) error {
	if mounts {
		// Threads share their root and working directory, and the kernel moves only one that does not.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := setns(pid, "mnt", unix.CLONE_NEWNS); err != nil {
			return err
		}
	}
	return setns(pid, "net", unix.CLONE_NEWNET)
}

func setns(pid int, name string, kind int) error {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", name))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), kind); err != nil {
		return fmt.Errorf("setns %s: %w", name, err)
	}
	return nil
}

// command prepares argv inside the host, in the control group of that leaf.
func (h *EdgeHost) command(leaf string, argv []string) (*exec.Cmd, error) {
	enter, err := h.enter()
	if err != nil {
		return nil, err
	}
	return h.cluster.commandIn(h.Cgroup()+"/"+leaf, append(enter, argv...))
}
