package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"text/tabwriter"

	"github.com/tether-edge/tether/tests/cluster"
)

// openEdge finds the running system and its edge host.
func openEdge(p *place) (*cluster.Cluster, *cluster.EdgeHost, error) {
	c, err := p.open()
	if err != nil {
		return nil, nil, err
	}
	edge := c.Host(nodeName)
	if edge == nil {
		return nil, nil, errors.New("expected an edge host, found a system that was never finished: start anew with `make quickstart`")
	}
	return c, edge, nil
}

// cut takes the edge's cable out.
func cut(ctx context.Context, p *place, out io.Writer) error {
	c, edge, err := openEdge(p)
	if err != nil {
		return err
	}
	defer c.Release(ctx)
	if err := edge.Cut(); err != nil {
		return err
	}
	fmt.Fprintf(out, "the cable of %s is out (link %s is down); `make heal` puts it back\n", edge.Name(), edge.RootLink())
	return nil
}

// heal puts the cable back.
func heal(ctx context.Context, p *place, out io.Writer) error {
	c, edge, err := openEdge(p)
	if err != nil {
		return err
	}
	defer c.Release(ctx)
	if err := edge.Heal(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "the cable of %s is in again\n", edge.Name())
	return nil
}

// down ends everything and removes it.
func down(ctx context.Context, p *place, out io.Writer) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	found, err := p.removeOld(ctx)
	if err != nil {
		return fmt.Errorf("%w\nrun `make down` again; what is named above is all that is left", err)
	}
	if !found {
		fmt.Fprintln(out, "there was nothing to take down")
		return nil
	}
	fmt.Fprintln(out, "all is down: no process, mount, namespace, link or control group is left")
	return nil
}

// status shows what runs.
func status(ctx context.Context, p *place, out io.Writer) error {
	c, err := p.open()
	if err != nil {
		return err
	}
	defer c.Release(ctx)
	showProcesses(c, out)
	if edge := c.Host(nodeName); edge != nil {
		showEdge(ctx, edge, out)
	}
	if control := c.ControlPlane(); control != nil && control.Alive() {
		kubectl, err := findKubectl(ctx)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, kubectl, "--kubeconfig", p.kubeconfig(), "--request-timeout=5s", "get", "nodes,pods", "--all-namespaces", "--output=wide")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("ask the API server: %w", err)
		}
	}
	return nil
}

func showProcesses(c *cluster.Cluster, out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PROCESS\tPID\tSTATE\tRESTARTS\tLOG")
	for _, process := range c.Processes() {
		state := "running"
		if !process.Alive() {
			state = "ended"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\n", process.Name(), process.PID(), state, process.Restarts(), process.LogPath())
	}
	table.Flush()
}

// showEdge shows the cable and the containers as the edge's own runtime knows them, with or without the cloud.
func showEdge(ctx context.Context, edge *cluster.EdgeHost, out io.Writer) {
	cable := "in"
	if isCut, err := edge.IsCut(ctx); err != nil {
		cable = err.Error()
	} else if isCut {
		cable = "out"
	}
	fmt.Fprintf(out, "\n%s: address %s, cable %s\n", edge.Name(), edge.Address(), cable)
	containers, err := listContainers(ctx, edge)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "CONTAINER\tPOD\tRUNNING\tRESTARTS")
	for _, container := range containers {
		fmt.Fprintf(table, "%.12s\t%s/%s\t%t\t%d\n", container.ID, container.Namespace, container.Pod, container.Running, container.Attempt)
	}
	table.Flush()
	fmt.Fprintln(out)
}

func listContainers(ctx context.Context, edge *cluster.EdgeHost) ([]cluster.Container, error) {
	cri, err := edge.CRI(ctx)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	return cri.Containers(ctx)
}
