package version

import (
	"regexp"
	"runtime/debug"
	"testing"
)

func TestStampedValuesWin(t *testing.T) {
	build := &debug.BuildInfo{
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "ffffffffffffffff"}, {Key: "vcs.time", Value: "2001-01-01T00:00:00Z"}},
		Deps:     []*debug.Module{{Path: "k8s.io/kubernetes", Version: "v1.1.1"}},
	}
	i := describe("v0.1.0", "abc", "v1.36.3", "2030-06-01T12:00:00Z", build)
	if i.Committed != "2030-06-01T12:00:00Z" || i.Version != "v0.1.0" || i.Commit != "abc" || i.Kubernetes != "v1.36.3" {
		t.Errorf("stamped v0.1.0, abc, v1.36.3 of 2030-06-01; got %+v", i)
	}
}

func TestUnstampedBuildTellsWhatTheToolchainRecorded(t *testing.T) {
	build := &debug.BuildInfo{
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"},
			{Key: "vcs.time", Value: "2030-06-01T12:00:00Z"},
		},
		Deps: []*debug.Module{{Path: "k8s.io/kubernetes", Version: "v1.36.3"}},
	}
	i := describe("", "", "", "", build)
	if i.Version != "dev" || i.Committed != "2030-06-01T12:00:00Z" || i.Commit != "0123456789ab-dirty" || i.Kubernetes != "v1.36.3" {
		t.Errorf("expected dev, 0123456789ab-dirty of 2030-06-01, v1.36.3; got %+v", i)
	}
}

func TestNothingIsEverEmpty(t *testing.T) {
	for _, build := range []*debug.BuildInfo{nil, {}} {
		i := describe("", "", "", "", build)
		if i.Version != "dev" || i.Commit != "unknown" || i.Kubernetes != "unknown" || i.Go == "" || i.Platform == "" {
			t.Errorf("describe(%v) = %+v", build, i)
		}
	}
}

func TestStringHasTheDocumentedForm(t *testing.T) {
	form := regexp.MustCompile(`^edgecore \S+ \(commit \S+, built with go\S+, Kubernetes \S+\)$`)
	if s := String("edgecore"); !form.MatchString(s) {
		t.Errorf("String = %q, expected to match %s", s, form)
	}
}
