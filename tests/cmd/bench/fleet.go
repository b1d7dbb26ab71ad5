package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/fleet"
)

// startFleet starts a process of simulated edges and returns what steers it.
func (s *system) startFleet(ctx context.Context, name string, protocol transport.Protocol) (*fleet.Remote, *cluster.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find the program of the fleet: %w", err)
	}
	dir, err := s.edgeCA(ctx)
	if err != nil {
		return nil, nil, err
	}
	run := fleet.Process{Socket: filepath.Join(s.cluster.Dir(), name+".sock"), PKI: dir, Config: fleet.Config{Host: pki.ServerName, Protocol: protocol, Prefix: fleetPrefix,
		Servers: []link.Server{{WebSocket: s.Server(), QUIC: s.ServerOf(transport.QUIC)}}, PingInterval: 15 * time.Second}}
	p, err := s.cluster.Start(cluster.ProcessConfig{Name: name, Argv: append([]string{self, fleetVerb}, run.Args()...)})
	if err != nil {
		return nil, nil, err
	}
	remote := fleet.NewRemote(run.Socket)
	return remote, p, until(ctx, poll, readyTimeout, "the fleet to answer", func() error {
		_, err := remote.Status(ctx)
		return err
	})
}

// edgeCA writes the cluster's edge CA into a directory: two thousand joins would measure something else.
func (s *system) edgeCA(ctx context.Context) (string, error) {
	a, err := trust.New(s.Admin, time.Now).CA(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(s.cluster.Dir(), "fleet-pki")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("write the fleet's CA: %w", err)
	}
	return dir, a.CA.Save(dir)
}
