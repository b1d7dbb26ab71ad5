package policy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// megabyte is 10^6 bytes, as in docs/benchmarks.md.
const megabyte = 1e6

// The binaries are what a gateway stores, loads over a metered link at each update, and maps into memory.
func TestBinariesStaySmall(t *testing.T) {
	bin := t.TempDir()
	cmd := exec.Command("make", "--no-print-directory", "-C", root, "build", "BIN="+bin)
	// What make passes down to this test is not meant for another make.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	for name, limit := range map[string]float64{"edgecore": 66, "cloudcore": 60, "keadm": 50} {
		info, err := os.Stat(filepath.Join(bin, name))
		if err != nil {
			t.Errorf("make build made no %s: %v", name, err)
			continue
		}
		t.Logf("%s: %.1f MB of %.0f", name, float64(info.Size())/megabyte, limit)
		if size := float64(info.Size()) / megabyte; size > limit {
			t.Errorf("%s has %.1f MB, expected at most %.0f.\nUsual cause: something reachable executes a text/template or "+
				"html/template, or calls a method by a name that is not constant, which turns off dead-code elimination "+
				"(+25 MB); else a new dependency.\nFind it: go build -ldflags=-dumpdep ./... 2>&1 | grep -e Template -e MethodByName",
				name, size, limit)
		}
		out, err := exec.Command(filepath.Join(bin, name), "--version").Output()
		if err != nil || !strings.Contains(string(out), "Kubernetes v1.36.") || strings.Contains(string(out), "commit )") {
			t.Errorf("%s --version says %q, %v; expected version, commit and Kubernetes version", name, out, err)
		}
	}
}

// A module that upstream renames or drops would otherwise take its megabytes back without a word.
func TestPackagesWithoutInliningAreInEdgecore(t *testing.T) {
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		return string(out)
	}
	patterns := regexp.MustCompile(`-gcflags=(\S+)/\.\.\.=-l\b`).FindAllStringSubmatch(run("make", "goflags"), -1)
	if len(patterns) == 0 {
		t.Fatal("make goflags names no package that is compiled without inlining: edgecore would grow by 4 MB")
	}
	linked := strings.Fields(run("go", "list", "-deps", "./edge/cmd/edgecore"))
	for _, p := range patterns {
		if !slices.ContainsFunc(linked, func(l string) bool { return within(l, p[1]) }) {
			t.Errorf("COLD in the Makefile names %s, of which edgecore links nothing: name what took its place, or nothing", p[1])
		}
	}
}
