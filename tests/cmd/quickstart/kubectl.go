package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/tether-edge/tether/tests/cluster"
)

// findKubectl returns the machine's kubectl if it runs, or one built from the module. One that is installed but broken
// counts as none.
func findKubectl(ctx context.Context) (string, error) {
	if path := machineKubectl(ctx); path != "" {
		return path, nil
	}
	return cluster.Program(ctx, "kubectl")
}

func machineKubectl(ctx context.Context) string {
	path, err := exec.LookPath("kubectl")
	if err != nil || exec.CommandContext(ctx, path, "version", "--client").Run() != nil {
		return ""
	}
	return path
}

// kubectlCloud runs kubectl against the cluster as the admin, and shows the command and what it said.
func (s *system) kubectlCloud(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.kubectl, s.kubectlArgs(args)...)
	cmd.Dir = s.place.root
	return s.show("cloud", "kubectl", cmd, s.place.kubeconfig(), args)
}

// kubectlEdge runs kubectl inside the edge host against edgecore's own API: it works with and without the cloud.
func (s *system) kubectlEdge(ctx context.Context, args ...string) error {
	cmd, err := s.edge.Command(ctx, append([]string{s.kubectl}, s.kubectlArgs(args)...)...)
	if err != nil {
		return err
	}
	return s.show("edge", "kubectl", cmd, s.edge.Kubeconfig(), args)
}

// keadmEdge runs keadm ctl inside the edge host, where an operator at the site would.
func (s *system) keadmEdge(ctx context.Context, args ...string) error {
	program, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return err
	}
	args = append([]string{"ctl"}, args...)
	cmd, err := s.edge.Command(ctx, append(append([]string{program}, args...), "--config", s.edge.Config())...)
	if err != nil {
		return err
	}
	return s.show("edge", "keadm", cmd, s.edge.Kubeconfig(), args)
}

// kubectlArgs keeps kubectl's cache with the cluster, so that it goes with it.
func (s *system) kubectlArgs(args []string) []string {
	return append([]string{"--cache-dir", s.place.kubectlCache(), "--request-timeout=10s"}, args...)
}

// show runs a command of a program and prints it as a person would have typed it, with its output below.
func (s *system) show(where, program string, cmd *exec.Cmd, kubeconfig string, args []string) error {
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	text, err := cmd.CombinedOutput()
	s.out.say("%s$ %s %s", where, program, quote(args))
	if len(text) > 0 {
		s.out.say("%s", text)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, args[0], err, bytes.TrimSpace(text))
	}
	return nil
}

// quote writes arguments as a shell takes them.
func quote(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if strings.ContainsAny(arg, ` "{}$*|;&<>()`) {
			words[i] = "'" + arg + "'"
		}
	}
	return strings.Join(words, " ")
}
