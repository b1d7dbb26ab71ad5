package main

import (
	"context"
	"os/exec"

	"github.com/tether-edge/tether/tests/cluster"
)

// findKubectl returns the machine's kubectl if it runs, or one built from the module. One that is installed but broken
// counts as none.
func findKubectl(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("kubectl"); err == nil {
		if exec.CommandContext(ctx, path, "version", "--client").Run() == nil {
			return path, nil
		}
	}
	return cluster.Program(ctx, "kubectl")
}
