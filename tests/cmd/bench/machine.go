package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
)

// Machine describes where and of what figures were taken.
type Machine struct {
	Cores      int    `json:"cores"`
	CPU        string `json:"cpu"`
	MemoryMiB  int    `json:"memoryMiB"`
	Kernel     string `json:"kernel"`
	OS         string `json:"os"`
	Cgroups    string `json:"cgroups"`
	Containerd string `json:"containerd"`
	Runc       string `json:"runc"`
	Edgecore   string `json:"edgecore"`
	Cloudcore  string `json:"cloudcore"`
	Load       string `json:"load"` // averages when the run began
}

func (m Machine) String() string {
	return fmt.Sprintf("%d cores (%s), %d MiB, Linux %s, %s, cgroups %s; %s, %s; %s, %s; load average at the start %s",
		m.Cores, m.CPU, m.MemoryMiB, m.Kernel, m.OS, m.Cgroups, m.Containerd, m.Runc, m.Edgecore, m.Cloudcore, m.Load)
}

func describeMachine(ctx context.Context, h *host.Host) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), OS: h.PrettyName, Cgroups: fmt.Sprint(h.Cgroup), Kernel: firstLine("/proc/sys/kernel/osrelease"), Load: loads()}
	m.CPU = field("/proc/cpuinfo", "model name")
	var kib int
	// A machine that hides its memory is described with 0.
	_, _ = fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib)
	m.MemoryMiB = kib >> 10
	for name, into := range map[string]*string{"edgecore": &m.Edgecore, "cloudcore": &m.Cloudcore} {
		program, err := cluster.Program(ctx, name)
		if err != nil {
			return m, err
		}
		if *into, err = versionOf(ctx, program); err != nil {
			return m, err
		}
	}
	for name, into := range map[string]*string{"containerd": &m.Containerd, "runc": &m.Runc} {
		text, err := versionOf(ctx, h.Programs[name])
		if err != nil {
			return m, err
		}
		*into = text
	}
	return m, nil
}

// versionOf is the first line of what a program says of itself. containerd names the place of its source first.
func versionOf(ctx context.Context, program string) (string, error) {
	text, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	words := strings.Fields(line)
	for i, w := range words {
		if strings.HasPrefix(w, "github.com/") {
			words = append(words[:i:i], words[i+1:]...)
			break
		}
	}
	return strings.Join(words, " "), nil
}

// firstLine of a file, or what is wrong with it: a description must not fail for a detail.
func firstLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// field finds "name: value" in a file.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// loads are the load averages over 1, 5 and 15 minutes.
func loads() string {
	fields := strings.Fields(firstLine("/proc/loadavg"))
	return strings.Join(fields[:min(len(fields), 3)], ", ")
}

// load is the load average over one minute.
func load() string {
	one, _, _ := strings.Cut(firstLine("/proc/loadavg"), " ")
	return one
}

// kubernetes is the version that edgecore names, or empty.
func (r *Report) kubernetes() string {
	_, rest, _ := strings.Cut(r.Machine.Edgecore, "Kubernetes ")
	return strings.Trim(rest, "),; ")
}
