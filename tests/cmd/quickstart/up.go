package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
	"github.com/tether-edge/tether/tests/stack"
)

// nodeName is the name of the edge host and of the node that it becomes.
const nodeName = "edge-1"

// nodeReady bounds the wait for the node; it takes a few seconds, and longer on a machine that is compiling.
const nodeReady = 2 * time.Minute

// system is what up has brought up so far; each step fills in its part.
type system struct {
	place   *place
	out     *screen
	machine *host.Host
	images  []images.Archive
	kubectl string
	cluster *cluster.Cluster
	control *cluster.ControlPlane
	stack   *stack.Stack
	host    *cluster.EdgeHost
	edge    *stack.Edge
	demo    []replica // as they were before anything went wrong
	corePID int       // edgecore's, before it was killed
}

// up brings the system up from nothing and shows what it can do.
func up(ctx context.Context, p *place, out io.Writer) error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s := &system{place: p, out: &screen{out: out}}
	err = follow(ctx, s.out, []step{
		{"look at this machine", s.lookAtMachine},
		{"remove what an earlier run left", s.removeOld},
		{"install what is missing", s.install},
		{"find the programs", s.findPrograms},
		{"start control plane, CloudCore and edge host", s.startMachines},
		{"start edgecore, with the kubelet in it, and wait for the node", s.startEdge},
		{"run an application on the edge", s.runDemo},
		{"put devices to work on the edge", s.runDevices},
		{"cut the edge's cable", s.cutCable},
		{"kill edgecore with SIGKILL while it is cut off", s.killCore},
		{"change things on both sides meanwhile", s.changeBoth},
		{"heal the cable", s.healCable},
		{"compare the containers with those before the cut", s.compare},
	})
	if s.cluster != nil {
		s.cluster.Release(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w\nlogs: %s\nwhat runs: make status    start anew: make quickstart    remove everything: make down", err, p.short(filepath.Join(p.clusterDir(), "log")))
	}
	fmt.Fprint(out, s.next())
	return nil
}

// next says what to try now.
func (s *system) next() string {
	return fmt.Sprintf(`
The system keeps running. What to try next:
  export KUBECONFIG=%s
%s  kubectl get pods -o wide                      what the cluster sees
  kubectl scale deployment demo --replicas=10   more of it on the edge
  kubectl get devicestatuses                    the devices, and kubectl edit device pump-1 turns one
  make status                                   processes, link, containers, node and pods
  make cut; make heal                           take the cable out and put it back
  kill -9 $(cat %s)
                                                edgecore is back within a second, its pods never notice
  make down                                     end everything and leave nothing behind
logs are in %s
`, s.place.kubeconfig(), s.kubectlPath(), s.place.short(s.edge.CorePIDFile()), s.place.short(filepath.Join(s.place.clusterDir(), "log")))
}

// kubectlPath says where kubectl is, if the machine has none.
func (s *system) kubectlPath() string {
	if machineKubectl(context.Background()) != "" {
		return ""
	}
	return fmt.Sprintf("  export PATH=%s:$PATH                where kubectl is: this machine has none\n", filepath.Dir(s.kubectl))
}

func (s *system) lookAtMachine(context.Context) (string, error) {
	machine, err := host.Detect("/")
	if err != nil {
		return "", err
	}
	s.machine = machine
	s.out.print(machine.Report())
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
		return "", fmt.Errorf("%w; all that apt-get said is in %s", err, s.place.short(path))
	}
	s.machine = machine
	return "installed", nil
}

// findPrograms finds what `make build` has put into bin, and kubectl.
func (s *system) findPrograms(ctx context.Context) (string, error) {
	for _, name := range []string{"controlplane", "cloudcore", "edgecore", "keadm", "mapper"} {
		path, err := cluster.Program(ctx, name)
		if err != nil {
			return "", err
		}
		s.out.say("%s", s.place.short(path))
	}
	if s.kubectl = machineKubectl(ctx); s.kubectl == "" {
		s.out.say("this machine has no kubectl: it is built from the module (a minute with a cold cache)")
		var err error
		if s.kubectl, err = cluster.Program(ctx, "kubectl"); err != nil {
			return "", err
		}
	}
	return "kubectl is " + s.place.short(s.kubectl), nil
}

// startMachines brings up side by side what does not need each other: the cloud, the edge host, the images.
func (s *system) startMachines(ctx context.Context) (string, error) {
	c, err := cluster.New(cluster.Config{Dir: s.place.clusterDir(), Keep: true, Host: s.machine})
	if err != nil {
		return "", err
	}
	s.cluster = c
	err = atOnce(ctx, s.out, []step{
		{"cloud", s.startCloud},
		{"images", s.makeImages},
		{"edge host", s.startHost},
	})
	if err != nil {
		return "", err
	}
	if err := s.host.Import(ctx, s.images...); err != nil {
		return "", err
	}
	return "cloud and edge are joined by the cable " + s.host.RootLink(), nil
}

func (s *system) makeImages(ctx context.Context) (string, error) {
	archives, err := cluster.Images(ctx)
	s.images = archives
	return images.Pause + " and " + images.Demo + " made on the spot", err
}

func (s *system) startCloud(ctx context.Context) (string, error) {
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return "", err
	}
	begun := time.Now()
	if s.control, err = s.cluster.StartControlPlane(ctx, program); err != nil {
		return "", err
	}
	admin, err := os.ReadFile(s.control.Kubeconfig)
	if err != nil {
		return "", fmt.Errorf("read the admin's kubeconfig: %w", err)
	}
	if err := os.WriteFile(s.place.kubeconfig(), admin, 0o600); err != nil {
		return "", fmt.Errorf("write the admin's kubeconfig: %w", err)
	}
	s.out.say("control plane: ready at %s, admin kubeconfig in %s (%s)", s.control.Server, s.place.short(s.place.kubeconfig()), round(time.Since(begun)))
	if s.stack, err = stack.New(ctx, s.cluster, s.control); err != nil {
		return "", err
	}
	if err := s.stack.StartCloud(ctx); err != nil {
		return "", err
	}
	return "CloudCore lets edges in at " + s.stack.Server() + ", with the rights of build/manifests and no others", nil
}

func (s *system) startHost(ctx context.Context) (string, error) {
	edge, err := s.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: nodeName})
	if err != nil {
		return "", err
	}
	s.host = edge
	return fmt.Sprintf("%s at %s, pods in %s, with a containerd of its own", nodeName, edge.Address(), edge.PodSubnet()), nil
}

func (s *system) startEdge(ctx context.Context) (string, error) {
	var err error
	if s.edge, err = s.stack.NewEdge(ctx, s.host, nil); err != nil {
		return "", err
	}
	if err := s.edge.StartCore(ctx); err != nil {
		return "", err
	}
	if err := s.edge.WaitReady(ctx, nodeReady); err != nil {
		return "", fmt.Errorf("%w; the end of edgecore's log:\n%s", err, s.edge.Supervisor.LogTail(15))
	}
	return "the node is Ready", s.kubectlCloud(ctx, "get", "nodes", "-o", "wide")
}
