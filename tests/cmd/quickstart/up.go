package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
)

// nodeName is the name of the edge host and of the node that it becomes.
const nodeName = "edge-1"

// system is what up has brought up so far; each step fills in its part.
type system struct {
	place   *place
	out     io.Writer
	machine *host.Host
	images  []images.Archive
	kubectl string
	cluster *cluster.Cluster
	control *cluster.ControlPlane
	edge    *cluster.EdgeHost
}

// up brings the system up from nothing and shows what it can do.
func up(ctx context.Context, p *place, out io.Writer) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s := &system{place: p, out: out}
	err = follow(ctx, out, []step{
		{"look at this machine", s.lookAtMachine},
		{"remove what an earlier run left", s.removeOld},
		{"install what is missing", s.install},
		{"build the programs", s.build},
		{"make the images", s.makeImages},
		{"start the control plane", s.startControlPlane},
		{"start the edge host", s.startEdge},
	})
	if s.cluster != nil {
		s.cluster.Release(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w\nlogs: %s\nwhat runs: make status    start anew: make quickstart    remove everything: make down", err, filepath.Join(p.clusterDir(), "log"))
	}
	fmt.Fprintf(out, `
next: export KUBECONFIG=%s
      %s get nodes,pods -A -o wide
      make status | cut | heal | down
`, p.kubeconfig(), s.kubectl)
	return nil
}

func (s *system) lookAtMachine(context.Context) (string, error) {
	machine, err := host.Detect("/")
	if err != nil {
		return "", err
	}
	s.machine = machine
	fmt.Fprint(s.out, machine.Report())
	return "this machine will do", machine.Usable()
}

func (s *system) removeOld(ctx context.Context) (string, error) {
	found, err := s.place.removeOld(ctx)
	if err != nil || !found {
		return "there was nothing", err
	}
	return "removed", nil
}

func (s *system) install(ctx context.Context) (string, error) {
	if len(s.machine.Missing()) == 0 {
		return "nothing is missing", nil
	}
	path := s.place.path("install.log")
	log, err := os.Create(path)
	if err != nil {
		return "", err
	}
	machine, err := host.Install(ctx, s.machine, s.out, log)
	if err = errors.Join(err, log.Close()); err != nil {
		return "", fmt.Errorf("%w; all that apt-get said is in %s", err, path)
	}
	s.machine = machine
	return "installed", nil
}

func (s *system) build(ctx context.Context) (string, error) {
	if _, err := cluster.Program(ctx, "controlplane"); err != nil {
		return "", err
	}
	kubectl, err := findKubectl(ctx)
	if err != nil {
		return "", err
	}
	s.kubectl = kubectl
	return "kubectl is " + kubectl, nil
}

func (s *system) makeImages(ctx context.Context) (string, error) {
	archives, err := cluster.Images(ctx)
	s.images = archives
	return images.Pause + ", " + images.Demo, err
}

func (s *system) startControlPlane(ctx context.Context) (string, error) {
	c, err := cluster.New(cluster.Config{Dir: s.place.clusterDir(), Keep: true, Host: s.machine})
	if err != nil {
		return "", err
	}
	s.cluster = c
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return "", err
	}
	if s.control, err = c.StartControlPlane(ctx, program); err != nil {
		return "", err
	}
	admin, err := os.ReadFile(s.control.Kubeconfig)
	if err != nil {
		return "", fmt.Errorf("read the admin's kubeconfig: %w", err)
	}
	if err := os.WriteFile(s.place.kubeconfig(), admin, 0o600); err != nil {
		return "", fmt.Errorf("write the admin's kubeconfig: %w", err)
	}
	return s.control.Server, nil
}

func (s *system) startEdge(ctx context.Context) (string, error) {
	edge, err := s.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: nodeName, Images: s.images})
	if err != nil {
		return "", err
	}
	s.edge = edge
	return fmt.Sprintf("%s at %s, pods in %s, containerd of its own at %s", nodeName, edge.Address(), edge.PodSubnet(), edge.Socket()), nil
}
