package host

import (
	"os"
	"path/filepath"
	"slices"
)

// Requirement is a program that an edge host needs, and the package of Debian and Ubuntu that brings it.
type Requirement struct {
	Program string
	Package string
	Why     string
}

// Requirements lists the programs, in the order in which they are reported. The CNI plugins are apart, since they lie
// in a directory of their own.
func Requirements() []Requirement {
	return []Requirement{
		{"containerd", "containerd", "runs the pods (an own process of ours: the machine's own daemon is not used)"},
		{"ctr", "containerd", "imports the images that are made on the spot"},
		{"runc", "runc", "starts the containers for containerd"},
		{"iptables", "iptables", "pods' addresses are translated at the edge; also cuts the cable"},
		{"ip", "iproute2", "for looking at the edge's network"},
		{"nsenter", "util-linux", "enters the edge's namespaces"},
		{"mount", "mount", "the kubelet mounts volumes with it"},
		{"mosquitto_pub", "mosquitto-clients", "publishes for devices that speak MQTT, as device software of others does"},
	}
}

// cniPackage brings the CNI plugins; cniPlugins are those that the edge's network uses.
const cniPackage = "containernetworking-plugins"

var cniPlugins = []string{"bridge", "host-local", "loopback", "portmap"}

// programDirs is searched whatever PATH says: a PATH without sbin is common and hides what is there.
var programDirs = []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"}

// cniDirs are where Debian and where upstream put the plugins.
var cniDirs = []string{"usr/lib/cni", "opt/cni/bin"}

// findPrograms fills in where the needed programs are.
func (h *Host) findPrograms(root string) {
	for _, r := range Requirements() {
		for _, dir := range programDirs {
			if executable(filepath.Join(root, dir, r.Program)) {
				h.Programs[r.Program] = "/" + filepath.Join(dir, r.Program)
				break
			}
		}
	}
	for _, dir := range cniDirs {
		whole := !slices.ContainsFunc(cniPlugins, func(name string) bool { return !executable(filepath.Join(root, dir, name)) })
		if whole {
			h.CNIBin = "/" + dir
			break
		}
	}
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Missing lists the packages to install, each once, in a fixed order. It is empty when nothing is missing.
func (h *Host) Missing() []string {
	var packages []string
	for _, r := range Requirements() {
		if h.Programs[r.Program] == "" && !slices.Contains(packages, r.Package) {
			packages = append(packages, r.Package)
		}
	}
	if h.CNIBin == "" {
		packages = append(packages, cniPackage)
	}
	return packages
}

// MissingPrograms lists what Missing is missing for, by the names of the programs.
func (h *Host) MissingPrograms() []string {
	var names []string
	for _, r := range Requirements() {
		if h.Programs[r.Program] == "" {
			names = append(names, r.Program)
		}
	}
	if h.CNIBin == "" {
		names = append(names, "CNI plugins (bridge, host-local, loopback, portmap)")
	}
	return names
}

// usesApt reports whether the packages named here exist under these names.
func (h *Host) usesApt() bool { return h.Distribution == "debian" || h.Distribution == "ubuntu" }
