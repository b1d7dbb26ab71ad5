package main

import (
	"context"
	"errors"
	"fmt"
	"io"

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
