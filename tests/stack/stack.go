// Package stack runs Tether as an operator would: a control plane, CloudCore with the rights of build/manifests and
// nothing more, and edge hosts with a supervised edgecore. The quickstart shows it to people, the tests break it.
//
// It promises that everything is a process of its own with the configuration file that a user would write, and that
// the parts can be killed, cut off and started again one by one.
package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// Stack is one Tether system.
type Stack struct {
	Cluster *cluster.Cluster
	Control *cluster.ControlPlane
	Admin   kubernetes.Interface
	Cloud   *cluster.Process // cloudcore
	rest    *rest.Config
	address string // where CloudCore listens
	hubPort int
	metrics string // CloudCore's metrics address
	config  string // CloudCore's configuration file
}

// New prepares CloudCore's rights and certificates on a running control plane.
func New(ctx context.Context, c *cluster.Cluster, control *cluster.ControlPlane) (*Stack, error) {
	s := &Stack{Cluster: c, Control: control}
	var err error
	if s.rest, err = control.RESTConfig(); err != nil {
		return nil, err
	}
	s.rest.QPS = -1
	if s.Admin, err = kubernetes.NewForConfig(s.rest); err != nil {
		return nil, fmt.Errorf("make the admin's client: %w", err)
	}
	if s.address, err = c.CloudAddress(); err != nil {
		return nil, err
	}
	ports, err := cluster.FreePorts(2, s.address)
	if err != nil {
		return nil, err
	}
	s.hubPort, s.metrics = ports[0], net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1]))
	if err := applyManifests(ctx, s.rest); err != nil {
		return nil, err
	}
	if err := s.writeCloudConfig(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stack) path(elem ...string) string {
	return filepath.Join(append([]string{s.Cluster.Dir(), "tether"}, elem...)...)
}

// Server is the host:port that edges dial.
func (s *Stack) Server() string { return net.JoinHostPort(s.address, strconv.Itoa(s.hubPort)) }

// REST is the admin's way to the API server.
func (s *Stack) REST() *rest.Config { return rest.CopyConfig(s.rest) }

func (s *Stack) writeCloudConfig(ctx context.Context) error {
	if err := s.keadm(ctx, "pki", "init", "--dir", s.path("pki"), "--advertise-address", s.address); err != nil {
		return err
	}
	kubeconfig := s.path("cloudcore.kubeconfig")
	if err := writeServiceAccountKubeconfig(ctx, s.Admin, s.rest, kubeconfig); err != nil {
		return err
	}
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Kubeconfig = kubeconfig
	cfg.Hub.BindAddress, cfg.Hub.WebSocketPort = s.address, s.hubPort
	cfg.Hub.AdvertiseAddresses = []string{s.address}
	cfg.Hub.CertFile, cfg.Hub.KeyFile, cfg.Hub.ClientCAFile = s.path("pki", "server.crt"), s.path("pki", "server.key"), s.path("pki", "ca.crt")
	cfg.Metrics.BindAddress = s.metrics
	s.config = s.path("cloudcore.yaml")
	return writeConfig(s.config, cfg)
}

func writeConfig(path string, cfg any) error {
	b, err := v1alpha1.Marshal(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func (s *Stack) keadm(ctx context.Context, args ...string) error {
	program, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return err
	}
	return run(ctx, program, args...)
}

// StartCloud starts cloudcore and waits until it lets edges in.
func (s *Stack) StartCloud(ctx context.Context) error {
	program, err := cluster.Program(ctx, "cloudcore")
	if err != nil {
		return err
	}
	if s.Cloud, err = s.Cluster.Start(cluster.ProcessConfig{Name: "cloudcore", Argv: []string{program, "--config", s.config}}); err != nil {
		return err
	}
	return s.CloudReady(ctx)
}

// CloudReady waits until cloudcore lets edges in.
func (s *Stack) CloudReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return poll(ctx, "cloudcore to be ready", func() error {
		if !s.Cloud.Alive() {
			return fmt.Errorf("cloudcore ended: %s", s.Cloud.LogTail(5))
		}
		return httpOK(ctx, "http://"+s.metrics+"/readyz")
	})
}

// CloudMetrics is the URL of cloudcore's metrics.
func (s *Stack) CloudMetrics() string { return "http://" + s.metrics + "/metrics" }

// poll asks until the answer is nil or ctx ends, and then tells the last answer.
func poll(ctx context.Context, what string, ask func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the question that the deadline cut short says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s in vain: %w", what, errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}

func httpOK(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
