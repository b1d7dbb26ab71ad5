package stack

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// run runs a program to its end and returns its standard output.
func run(ctx context.Context, program string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, program, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %q: %w: %s", program, args, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}
