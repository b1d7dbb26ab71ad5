package keadm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kubeletNames are the programs that hold a kubelet.
var kubeletNames = []string{"kubelet", "k3s", "k3s-server", "k3s-agent", "k0s", "microk8s", "kubelite", "edgecore"}

// A kubelet is a process of this machine that runs pods.
type kubelet struct {
	name, pid string
	// config is the configuration file of an edgecore.
	config string
}

func (k kubelet) String() string {
	s := k.name + " runs as process " + k.pid
	if k.config != "" {
		s += " with --config " + k.config
	}
	return s
}

// kubelets splits those of the machine below root into the edgecore of that configuration file and all others. A process
// with a network of its own is in a container: it is another machine's, and its pods are in another runtime. An error
// means that it is not known which there are.
func kubelets(root, config string) (own, others []kubelet, err error) {
	proc := filepath.Join(root, "proc")
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return nil, nil, fmt.Errorf("look for kubelets: %w", err)
	}
	if !slices.ContainsFunc(dirs, func(d fs.DirEntry) bool { return strings.Trim(d.Name(), "0123456789") == "" }) {
		return nil, nil, fmt.Errorf("look for kubelets: expected processes in %s, found none: is it mounted?", proc)
	}
	if abs, err := filepath.Abs(config); err == nil {
		config = abs
	}
	here, _ := os.Readlink(filepath.Join(proc, "self/ns/net")) // one that cannot be read differs from none
	for _, d := range dirs {
		comm, err := os.ReadFile(filepath.Join(proc, d.Name(), "comm"))
		name := strings.TrimSpace(string(comm))
		if err != nil || !slices.Contains(kubeletNames, name) {
			continue
		}
		there, err := os.Readlink(filepath.Join(proc, d.Name(), "ns/net"))
		if err == nil && here != "" && there != here {
			continue
		}
		k := kubelet{name: name, pid: d.Name()}
		if name == "edgecore" {
			k.config = configOf(filepath.Join(proc, d.Name()))
		}
		if k.config != "" && k.config == config {
			own = append(own, k)
		} else {
			others = append(others, k)
		}
	}
	return own, others, nil
}

// configOf reads the configuration file's name off the command line of an edgecore; empty if it tells none.
func configOf(dir string) string {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	if err != nil || args[0] == "" {
		return ""
	}
	config := defaultConfig
	for i, a := range args {
		if v, ok := strings.CutPrefix("-"+strings.TrimLeft(a, "-"), "-config="); ok {
			config = v
		} else if (a == "--config" || a == "-config") && i+1 < len(args) {
			config = args[i+1]
		}
	}
	if !filepath.IsAbs(config) {
		wd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		config = filepath.Join(wd, config)
	}
	return filepath.Clean(config)
}
