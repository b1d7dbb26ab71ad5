package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// status shows what runs: processes, the edge as it sees itself, and nodes and pods as the cluster sees them.
func status(ctx context.Context, p *place, out io.Writer) error {
	c, err := p.open()
	if err != nil {
		return err
	}
	defer c.Release(ctx)
	showProcesses(p, c, out)
	if h := c.Host(nodeName); h != nil {
		showEdge(ctx, c, h, out)
	}
	control := c.ControlPlane()
	if control == nil || !control.Alive() {
		fmt.Fprintln(out, "the control plane does not run: start anew with `make quickstart`")
		return nil
	}
	kubectl, err := findKubectl(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, kubectl, "--kubeconfig", control.Kubeconfig, "--cache-dir", p.kubectlCache(), "--request-timeout=5s",
		"get", "nodes,pods", "--all-namespaces", "--output=wide")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	return nil
}

func showProcesses(p *place, c *cluster.Cluster, out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PROCESS\tPID\tSTATE\tLOG")
	for _, process := range c.Processes() {
		state := "running"
		if !process.Alive() {
			state = "ended"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", process.Name(), process.PID(), state, p.short(process.LogPath()))
	}
	table.Flush()
}

// showEdge shows the cable, the link, and the containers as the edge's own runtime knows them, with or without the
// cloud. What cannot be asked is shown as the reason.
func showEdge(ctx context.Context, c *cluster.Cluster, h *cluster.EdgeHost, out io.Writer) {
	fmt.Fprintf(out, "\n%s at %s\n  cable     %s\n", h.Name(), h.Address(), cable(ctx, h))
	edge := stack.Find(c, h)
	if found, err := edge.Status(ctx); err != nil {
		fmt.Fprintf(out, "  edgecore  %v\n", err)
	} else {
		pid, err := edge.CorePID()
		if err != nil {
			fmt.Fprintf(out, "  edgecore  %v\n", err)
		} else {
			fmt.Fprintf(out, "  edgecore  process %d, kept running by edgecore-%s\n", pid, h.Name())
		}
		fmt.Fprintf(out, "  link      %s\n  kubelet   %s\n", linkWords(found, time.Now()), kubeletWords(found))
	}
	containers, err := listContainers(ctx, h)
	if err != nil {
		fmt.Fprintf(out, "  containers  %v\n", err)
		return
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "CONTAINER\tPOD\tRUNNING\tRESTARTS")
	for _, container := range containers {
		fmt.Fprintf(table, "%.12s\t%s/%s\t%t\t%d\n", container.ID, container.Namespace, container.Pod, container.Running, container.Attempt)
	}
	table.Flush()
	fmt.Fprintln(out)
}

func cable(ctx context.Context, h *cluster.EdgeHost) string {
	isCut, err := h.IsCut(ctx)
	switch {
	case err != nil:
		return err.Error()
	case isCut:
		return "out (make heal puts it back)"
	}
	return "in"
}

// linkWords says in one line how the link is and since when.
func linkWords(s stack.EdgeStatus, now time.Time) string {
	since := now.Sub(s.Link.Since).Round(time.Second)
	switch {
	case !s.Link.Connected:
		return fmt.Sprintf("down for %s: %s", since, s.Link.Problem)
	case !s.Link.Synced:
		return fmt.Sprintf("up for %s with %s, catching up", since, s.Link.Server)
	}
	return fmt.Sprintf("up for %s with %s, all caught up", since, s.Link.Server)
}

func kubeletWords(s stack.EdgeStatus) string {
	if s.Kubelet.Reason == "" {
		return s.Kubelet.State
	}
	return s.Kubelet.State + ": " + s.Kubelet.Reason
}

func listContainers(ctx context.Context, edge *cluster.EdgeHost) ([]cluster.Container, error) {
	cri, err := edge.CRI(ctx)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	return cri.Containers(ctx)
}
