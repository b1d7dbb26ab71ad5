package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs are where the mains of the project lie.
var programs = map[string]string{
	"cloudcore":    "cloud/cmd/cloudcore",
	"controlplane": "cloud/cmd/controlplane",
	"edgecore":     "edge/cmd/edgecore",
	"keadm":        "common/cmd/keadm",
	"kubectl":      "tests/cmd/kubectl",
	"mapper":       "edge/cmd/mapper",
}

// BinEnv names the environment variable that says where finished programs lie. `make test` sets it after `make build`.
const BinEnv = "TETHER_BIN"

// Program returns the path of one of the project's programs. With BinEnv set it is the one that lies there; otherwise,
// or if none does, it is built from the sources (into .tether/bin of the module without BinEnv), which takes minutes
// with a cold build cache and seconds with a warm one. The working directory must be inside the module.
func Program(ctx context.Context, name string) (string, error) {
	folder, known := programs[name]
	if !known {
		return "", fmt.Errorf("find the program %s: it is none of the project's", name)
	}
	root, err := ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".tether", "bin", name)
	if dir := os.Getenv(BinEnv); dir != "" {
		if path, err = filepath.Abs(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("find the program %s in $%s: %w", name, BinEnv, err)
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	stamps, err := KubernetesStamps(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w "+stamps, "-o", path, "./"+folder)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(text)))
	}
	return path, nil
}

// KubernetesStamps are linker flags that make the Kubernetes libraries say their own version, as go.mod names it: clients
// and components compare versions, and without them they would find v0.0.0.
func KubernetesStamps(ctx context.Context) (string, error) {
	text, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return "", fmt.Errorf("ask for the version of Kubernetes: %w", err)
	}
	version := strings.TrimSpace(string(text))
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) < 3 {
		return "", fmt.Errorf("ask for the version of Kubernetes: expected v1.2.3, found %q", version)
	}
	var stamps []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		stamps = append(stamps, fmt.Sprintf("-X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s", pkg, version, pkg, parts[0], pkg, parts[1]))
	}
	return strings.Join(stamps, " "), nil
}

// ModuleRoot is the top directory of the module that the working directory is in.
func ModuleRoot(ctx context.Context) (string, error) {
	text, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path := strings.TrimSpace(string(text))
	if path == "" || path == os.DevNull {
		return "", fmt.Errorf("find the module: expected the working directory inside it; go to the top of the source tree")
	}
	return filepath.Dir(path), nil
}
