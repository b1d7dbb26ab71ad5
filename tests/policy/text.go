package policy

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// matches finds re in the text files of the repository, but for those in except.
func matches(s *source, re *regexp.Regexp, except ...string) (out []breach) {
	if slices.Contains(except, s.path) || bytes.IndexByte(s.data, 0) >= 0 {
		return nil
	}
	for i, line := range strings.Split(string(s.data), "\n") {
		if m := re.FindString(line); m != "" {
			out = append(out, breach{s.path + ":" + strconv.Itoa(i+1), m})
		}
	}
	return out
}

// The patterns are written so that they do not match themselves.
var (
	registries = regexp.MustCompile(`\b(docker[.]io|gcr[.]io|ghcr[.]io|quay[.]io|registry[.]k8s[.]io|public[.]ecr[.]aws|mcr[.]microsoft[.]com)\b`)
	paths      = regexp.MustCompile(`(^|[^\w.])/(work|root|home/\w+)/\w+`)
)

var foreignNames = rule{
	name:    "no file names an image registry",
	why:     "nothing here may reach for a host that its user did not name; sites are offline, and registries move",
	instead: "take the repository from a flag without default, or make the image on the spot (build/images)",
	check:   func(s *source) []breach { return matches(s, registries, "go.sum") },
}

var machinePaths = rule{
	name:    "no file names a directory of somebody's machine",
	why:     "it works on that machine only",
	instead: "use a path relative to the repository, a temporary directory, or a path of the Filesystem Hierarchy Standard",
	check:   func(s *source) []breach { return matches(s, paths, "go.sum") },
}
