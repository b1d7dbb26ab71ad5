// Package version says which build of Tether a binary is: its release, its commit, and the Kubernetes it carries.
//
// The Makefile stamps these, and the commit's time, with -ldflags -X; a binary built without it (go run, go test) says "dev" and takes the
// commit and its time from what the Go toolchain recorded. Every main prints String for --version, and the link's Hello carries
// Get().Version. It promises never to be empty and never to change while the process runs.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Set by the linker only: -X github.com/tether-edge/tether/common/version.version=v0.1.0 and so on.
var (
	version    string
	commit     string
	kubernetes string
	committed  string
)

// Info describes a build.
type Info struct {
	// Version is Tether's own, such as "v0.1.0", or "dev".
	Version string `json:"version"`
	// Commit is the git commit, abbreviated to 12 digits, with "-dirty" if the tree had changes; or "unknown".
	Commit string `json:"commit"`
	// Committed is the commit's time (RFC 3339, UTC), the same however often it is built; empty if unknown.
	Committed string `json:"committed,omitempty"`
	// Go is the toolchain's version, such as "go1.26.0".
	Go string `json:"go"`
	// Kubernetes is the version of k8s.io/kubernetes that this build uses, such as "v1.36.3", or "unknown".
	Kubernetes string `json:"kubernetes"`
	// Platform is GOOS/GOARCH.
	Platform string `json:"platform"`
}

var get = sync.OnceValue(func() Info {
	build, _ := debug.ReadBuildInfo()
	return describe(version, commit, kubernetes, committed, build)
})

// Get returns the description of the running binary.
func Get() Info { return get() }

// Committed is a time that is past wherever the running binary runs: its commit's. Zero if it is not known.
func Committed() time.Time {
	t, err := time.Parse(time.RFC3339, Get().Committed)
	if err != nil {
		return time.Time{}
	}
	return t
}

// String returns the line that --version prints, such as
// "edgecore v0.1.0 (commit 0123456789ab, built with go1.26.0, Kubernetes v1.36.3)".
func String(name string) string {
	i := Get()
	return fmt.Sprintf("%s %s (commit %s, built with %s, Kubernetes %s)", name, i.Version, i.Commit, i.Go, i.Kubernetes)
}

// describe fills what the linker did not stamp from the toolchain's record of the build, which may be nil.
func describe(version, commit, kubernetes, committed string, build *debug.BuildInfo) Info {
	i := Info{
		Version: version, Commit: commit, Kubernetes: kubernetes, Committed: committed,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if build != nil {
		if i.Commit == "" {
			i.Commit = revision(build.Settings)
		}
		for _, x := range build.Settings {
			if i.Committed == "" && x.Key == "vcs.time" {
				i.Committed = x.Value
			}
		}
		for _, dep := range build.Deps {
			if i.Kubernetes == "" && dep.Path == "k8s.io/kubernetes" {
				i.Kubernetes = dep.Version
			}
		}
	}
	for _, f := range []struct {
		field    *string
		fallback string
	}{{&i.Version, "dev"}, {&i.Commit, "unknown"}, {&i.Kubernetes, "unknown"}} {
		if *f.field == "" {
			*f.field = f.fallback
		}
	}
	return i
}

func revision(settings []debug.BuildSetting) string {
	var rev, dirty string
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if rev == "" {
		return ""
	}
	return rev + dirty
}
