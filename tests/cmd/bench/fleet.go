package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/fleet"
)

// startFleet starts a process of simulated edges and returns the URL that steers it.
func (s *system) startFleet(ctx context.Context, name string, protocol transport.Protocol) (control string, p *cluster.Process, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("find the program of the fleet: %w", err)
	}
	ports, err := cluster.FreePorts(1, "")
	if err != nil {
		return "", nil, err
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	dir, err := s.edgeCA(ctx)
	if err != nil {
		return "", nil, err
	}
	p, err = s.cluster.Start(cluster.ProcessConfig{Name: name, Argv: []string{self, fleetVerb, "--server", s.ServerOf(protocol), "--protocol", string(protocol),
		"--listen", listen, "--pki", dir, "--prefix", fleetPrefix}})
	if err != nil {
		return "", nil, err
	}
	control = "http://" + listen
	err = until(ctx, poll, readyTimeout, "the fleet to answer", func() error {
		_, err := ask(ctx, http.MethodGet, control+"/status")
		return err
	})
	return control, p, err
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

func ask(ctx context.Context, method, url string) (g fleet.Grown, err error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return g, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return g, fmt.Errorf("ask the fleet: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return g, fmt.Errorf("ask the fleet: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return g, fmt.Errorf("ask the fleet: %s: %s", response.Status, text)
	}
	if err := json.Unmarshal(text, &g); err != nil {
		return g, fmt.Errorf("ask the fleet: %w", err)
	}
	return g, nil
}

// runFleet is the process of simulated edges.
func runFleet(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench "+fleetVerb, flag.ContinueOnError)
	server := flags.String("server", "", "the hub's host:port")
	protocol := flags.String("protocol", string(transport.WebSocket), "what carries the links")
	listen := flags.String("listen", "", "address to be steered at")
	dir := flags.String("pki", "", "directory of the edges' authority")
	prefix := flags.String("prefix", "", "beginning of the nodes' names")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ca, err := pki.LoadCA(*dir, time.Now)
	if err != nil {
		return err
	}
	f := fleet.New(fleet.Config{Server: *server, Protocol: transport.Protocol(*protocol), Host: pki.ServerName, Prefix: *prefix},
		fleet.Deps{CA: ca, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now})
	web := &http.Server{Addr: *listen, Handler: f.Handler(ctx), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	err = web.ListenAndServe()
	f.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("steer the fleet: %w", err)
}
