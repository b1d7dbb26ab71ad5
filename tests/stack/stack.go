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
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/transport"
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
	// quicPort is its port for QUIC.
	quicPort int
	// joinPort is where edges get their certificates.
	joinPort int
	// discovery is the host:port where scrapers ask for kubelets.
	discovery string
	metrics   string // CloudCore's metrics address
	config    string // CloudCore's configuration file
	printed   string // what keadm init said
}

// Attach returns a stack on a running control plane, without a CloudCore.
func Attach(c *cluster.Cluster, control *cluster.ControlPlane) (*Stack, error) {
	s := &Stack{Cluster: c, Control: control}
	var err error
	if s.rest, err = control.RESTConfig(); err != nil {
		return nil, err
	}
	s.rest.QPS = -1
	if s.Admin, err = kubernetes.NewForConfig(s.rest); err != nil {
		return nil, fmt.Errorf("make the admin's client: %w", err)
	}
	return s, nil
}

// New sets CloudCore up on a running control plane, by keadm init.
func New(ctx context.Context, c *cluster.Cluster, control *cluster.ControlPlane) (*Stack, error) {
	s, err := Attach(c, control)
	if err != nil {
		return nil, err
	}
	if s.address, err = c.CloudAddress(); err != nil {
		return nil, err
	}
	ports, err := cluster.FreePorts(5, s.address)
	if err != nil {
		return nil, err
	}
	s.hubPort, s.metrics, s.joinPort, s.quicPort = ports[0], net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1])), ports[2], ports[3]
	s.discovery = net.JoinHostPort(s.address, strconv.Itoa(ports[4]))
	s.config = s.path("cloudcore.yaml")
	s.printed, err = s.keadm(ctx, "init", "--local", "--service", "none", "--config", s.config, "--advertise-address", s.address,
		"--set", "hub.bindAddress="+s.address, "--set", fmt.Sprintf("hub.webSocketPort=%d", s.hubPort),
		"--set", fmt.Sprintf("hub.quicPort=%d", s.quicPort), "--set", fmt.Sprintf("join.port=%d", s.joinPort), "--set", fmt.Sprintf("tunnel.discoveryPort=%d", ports[4]), "--set", "metrics.bindAddress="+s.metrics)
	return s, err
}

func (s *Stack) path(elem ...string) string {
	return filepath.Join(append([]string{s.Cluster.Dir(), "tether"}, elem...)...)
}

// Server is the host:port that edges dial.
func (s *Stack) Server() string { return net.JoinHostPort(s.address, strconv.Itoa(s.hubPort)) }

// ServerOf is the host:port that edges dial by a protocol.
func (s *Stack) ServerOf(p transport.Protocol) string {
	if p == transport.QUIC {
		return net.JoinHostPort(s.address, strconv.Itoa(s.quicPort))
	}
	return s.Server()
}

// REST is the admin's way to the API server.
func (s *Stack) REST() *rest.Config { return rest.CopyConfig(s.rest) }

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

// keadm runs keadm beside the cluster and returns what it prints.
func (s *Stack) keadm(ctx context.Context, args ...string) (string, error) {
	program, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return "", err
	}
	return run(ctx, program, append(args, "--kubeconfig", s.Control.Kubeconfig)...)
}

// Keadm runs keadm with the admin's kubeconfig and returns what it prints.
func (s *Stack) Keadm(ctx context.Context, args ...string) (string, error) {
	return s.keadm(ctx, args...)
}

// JoinArgs are the arguments of keadm join, run on the host, that make it a node with the settings of a test machine.
func (s *Stack) JoinArgs(ctx context.Context, h *cluster.EdgeHost) ([]string, error) {
	token, err := s.keadm(ctx, "gettoken", "--node", h.Name())
	if err != nil {
		return nil, err
	}
	return append([]string{"join", "--cloudcore-ipport", s.Server(), "--certport", strconv.Itoa(s.joinPort), "--token", strings.TrimSpace(token)}, joinSettings(h)...), nil
}

// PrintedJoinArgs are those of JoinArgs in the line that keadm init printed, for one machine.
func (s *Stack) PrintedJoinArgs(h *cluster.EdgeHost) ([]string, error) {
	for line := range strings.Lines(s.printed) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "keadm" && words[1] == "join" {
			return append(words[1:], joinSettings(h)...), nil
		}
	}
	return nil, fmt.Errorf("keadm init printed no line that begins with keadm join:\n%s", s.printed)
}

// joinSettings are the flags that a test machine needs.
func joinSettings(h *cluster.EdgeHost) []string {
	dir := edgeDir(h)
	args := []string{"--edgenode-name", h.Name(), "--remote-runtime-endpoint", "unix://" + h.Socket(), "--cgroupdriver", "cgroupfs",
		"--config", filepath.Join(dir, "edgecore.yaml"), "--data-dir", filepath.Join(dir, "data"), "--pki-dir", filepath.Join(dir, "pki"),
		// The machine itself, and its other hosts, run kubelets of their own, which this host's containerd does not know.
		"--ignore-preflight-errors", "other-kubelet,disk"}
	for _, set := range []string{
		"cloud.pingInterval=5s", fmt.Sprintf("kubelet.port=%d", kubeletPort), "kubelet.cgroupRoot=" + h.Cgroup(),
		"kubelet.staticPodPath=" + filepath.Join(dir, "static-pods"),
		// No name server runs in the demonstration; without an address each pod would cost a warning event.
		"kubelet.clusterDNS=[" + h.RootAddress() + "]",
		"devices.mapperSocket=" + filepath.Join(dir, "dmi.sock"), "images.socket=" + filepath.Join(dir, "image.sock"),
		// The machine's disk is not the edge's to judge.
		"kubelet.evictionHard={memory.available: 20Mi}",
	} {
		args = append(args, "--set", set)
	}
	return args
}

// ChangeCloud edits cloudcore's configuration. cloudcore must not run.
func (s *Stack) ChangeCloud(change func(*v1alpha1.CloudCore)) error {
	cfg, err := v1alpha1.LoadCloudCore(s.config)
	if err != nil {
		return err
	}
	change(cfg)
	return writeConfig(s.config, cfg)
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
func (s *Stack) CloudReady(ctx context.Context) error { return ready(ctx, s.Cloud, s.metrics) }

func ready(ctx context.Context, cloud *cluster.Process, metrics string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return poll(ctx, "cloudcore to be ready", func() error {
		if !cloud.Alive() {
			return fmt.Errorf("cloudcore ended: %s", cloud.LogTail(5))
		}
		return httpOK(ctx, "http://"+metrics+"/readyz")
	})
}

// Cloud is a CloudCore beside the first one, and where it listens.
type Cloud struct {
	*cluster.Process
	// WebSocket and QUIC are the host:ports that edges dial, Metrics is the one of its metrics and of whether it is ready.
	WebSocket, QUIC, Metrics string
	// Config is its configuration file.
	Config string
}

// FurtherCloud starts the nth further cloudcore of the same cluster, from 1, at an address of its own and with the first
// one's ports. Nodes show the first one's address, whoever holds them. It may be there though an error is returned.
func (s *Stack) FurtherCloud(ctx context.Context, n int) (*Cloud, error) {
	cfg, err := v1alpha1.LoadCloudCore(s.config)
	if err != nil {
		return nil, err
	}
	address, err := s.Cluster.FurtherAddress(n)
	if err != nil {
		return nil, err
	}
	ports, err := cluster.FreePorts(1, "")
	if err != nil {
		return nil, err
	}
	cfg.Hub.BindAddress, cfg.Hub.AdvertiseAddresses, cfg.Tunnel.AdvertiseAddress = address, []string{address}, s.address
	cfg.Metrics.BindAddress = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	name := fmt.Sprintf("cloudcore-%d", n+1)
	config := s.path(name + ".yaml")
	if err := writeConfig(config, cfg); err != nil {
		return nil, err
	}
	program, err := cluster.Program(ctx, "cloudcore")
	if err != nil {
		return nil, err
	}
	p, err := s.Cluster.Start(cluster.ProcessConfig{Name: name, Argv: []string{program, "--config", config}})
	if err != nil {
		return nil, err
	}
	c := &Cloud{Process: p, Config: config, Metrics: cfg.Metrics.BindAddress, WebSocket: net.JoinHostPort(address, strconv.Itoa(cfg.Hub.WebSocketPort)),
		QUIC: net.JoinHostPort(address, strconv.Itoa(cfg.Hub.QUICPort))}
	return c, c.Ready(ctx)
}

// Ready waits until it lets edges in.
func (c *Cloud) Ready(ctx context.Context) error { return ready(ctx, c.Process, c.Metrics) }

// Discovery is the host:port at which CloudCore tells scrapers of kubelets.
func (s *Stack) Discovery() string { return s.discovery }

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
