package main

import (
	"context"

	"github.com/tether-edge/tether/tests/cluster"
)

// stockKubelet makes an edge host with a stock kubelet and waits until its node is Ready.
func (s *system) stockKubelet(ctx context.Context, name string) (*cluster.Process, error) {
	h, err := s.host(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.StockKubelet(ctx, h, s.bench.machine.SysResource)
}
