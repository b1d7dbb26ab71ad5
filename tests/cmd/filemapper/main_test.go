package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/mapper"
)

// The page that people copy from shows what is compiled and tested here.
func TestTheExampleInTheDocumentationIsThisProgram(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/mappers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(program), "\npackage main\n")
	var indented strings.Builder
	for line := range strings.Lines("package main\n" + code) {
		if line != "\n" {
			line = "    " + strings.ReplaceAll(line, "\t", "    ")
		}
		indented.WriteString(line)
	}
	if !strings.Contains(string(page), indented.String()) {
		t.Errorf("docs/mappers.md differs from the program; expected it to have:\n%s", indented.String())
	}
}

// What the page says to do in a shell, done with the program of the page: a module of its own, with nothing of this repository's but
// the package.
func TestTheExampleIsBuiltOutsideTheRepository(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, "docs/mappers.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	code := block(t, page, "    package main\n")
	steps := strings.Split(strings.TrimSpace(block(t, page, "    mkdir filemapper\n")+block(t, page, "    CGO_ENABLED=0 go build")), "\n")
	replace := "go mod edit -replace github.com/tether-edge/tether="
	if !strings.Contains(page, "`"+replace+"/path/to/tether`") {
		t.Errorf("expected the page to say %s", replace)
	}
	dir := t.TempDir()
	script := "set -e\n"
	for _, step := range steps {
		step = strings.TrimPrefix(step, "CGO_ENABLED=0 ") // it works, and would compile everything once more
		if strings.HasPrefix(step, "go get ") {
			// go get asks for a module of the package's own path, too: that there is none is nobody's to say but a public proxy's. So what it
			// reads, also the go.mod files of versions that nobody builds, is brought here first.
			script += replace + root + "\n" + `cp go.mod before
go mod edit -require github.com/tether-edge/tether@v0.0.0-00010101000000-000000000000
go build -mod=mod -o first .
mv before go.mod
rm -f go.sum first
export GOPROXY=off
`
		}
		script += step + "\n"
		if strings.HasPrefix(step, "go mod init") {
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(code), 0o600); err != nil {
				t.Fatal(err)
			}
			script += "mv ../main.go .\n"
		}
	}
	build := exec.CommandContext(t.Context(), "bash", "-c", script)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOWORK=off", "GOSUMDB=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s%s%v", script, out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "filemapper", "filemapper")); err != nil {
		t.Error(err)
	}
}

// block returns the indented lines of a page that begin with first.
func block(t *testing.T, page, first string) string {
	t.Helper()
	_, rest, ok := strings.Cut("\n"+page, "\n"+first)
	if !ok {
		t.Fatalf("expected a block that begins with %q", first)
	}
	var out strings.Builder
	for line := range strings.Lines(first + rest) {
		if line != "\n" && !strings.HasPrefix(line, "    ") {
			break
		}
		out.WriteString(strings.TrimPrefix(line, "    "))
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// The manifests of the page are what the kinds say.
func TestTheManifestsOfThePageAreRight(t *testing.T) {
	data, err := os.ReadFile("../../../docs/mappers.md")
	if err != nil {
		t.Fatal(err)
	}
	page, found := string(data), map[string]int{}
	for part := range strings.SplitSeq(page, "    apiVersion: ") {
		text := block(t, "    apiVersion: "+part, "    apiVersion: ")
		text, _, _ = strings.Cut(text, "\n---\n")
		text, _, _ = strings.Cut(text, "\nEOF\n")
		var kind struct{ Kind string }
		if yaml.Unmarshal([]byte(text), &kind) != nil {
			continue // what is before the first
		}
		into := map[string]any{"DeviceModel": &v1beta1.DeviceModel{}, "Device": &v1beta1.Device{}, "DaemonSet": &appsv1.DaemonSet{}}[kind.Kind]
		if into == nil {
			continue
		}
		found[kind.Kind]++
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if found["DeviceModel"] != 2 || found["Device"] != 2 || found["DaemonSet"] != 1 {
		t.Errorf("found %v", found)
	}
}

func TestTheExampleReadsAndWrites(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "power"), []byte("42\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := open(t.Context(), mapper.Device{Config: mapper.Config(`{"path": "` + dir + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if text, err := d.Read(t.Context(), mapper.Property{Name: "power"}); err != nil || text != "42" {
		t.Errorf("found %q, %v", text, err)
	}
	if err := d.Write(t.Context(), mapper.Property{Name: "limit"}, "50"); err != nil {
		t.Error(err)
	}
	if text, err := d.Read(t.Context(), mapper.Property{Name: "limit"}); err != nil || text != "50" {
		t.Errorf("found %q, %v", text, err)
	}
	if _, err := d.Read(t.Context(), mapper.Property{Name: "../power"}); err == nil {
		t.Error("expected a path out of the directory to be refused")
	}
	if _, err := open(t.Context(), mapper.Device{Config: mapper.Config(`{"path": "` + dir + `/none"}`)}); err == nil {
		t.Error("expected a directory that is not there to be refused")
	}
}
