package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// controlPlaneReady bounds the wait for a control plane; it takes a few seconds, and longer on a machine that is compiling.
const controlPlaneReady = 3 * time.Minute

// controlPlaneName is the name of its process.
const controlPlaneName = "controlplane"

// ControlPlane is the running stock control plane of a cluster.
type ControlPlane struct {
	*Process
	// Kubeconfig is the admin's, for use on the machine (127.0.0.1).
	Kubeconfig string
	// Server is the API server's URL at the cluster's CloudAddress, for edge hosts and pods.
	Server string
}

// StartControlPlane starts a stock control plane from the given program (bin/controlplane) and waits until it is ready.
// Its ports are free ones that stay the same when it is restarted; args are added to its flags.
func (c *Cluster) StartControlPlane(ctx context.Context, program string, args ...string) (*ControlPlane, error) {
	address, err := c.CloudAddress()
	if err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	ports, err := FreePorts(5, address)
	if err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	argv := []string{program, "--data-dir", c.controlPlaneDir(), "--bind-address", "127.0.0.1", "--extra-address", address, "--ready-file", c.readyFile()}
	for i, flag := range []string{"--secure-port", "--etcd-port", "--etcd-peer-port", "--controller-manager-port", "--scheduler-port"} {
		argv = append(argv, flag, strconv.Itoa(ports[i]))
	}
	process, err := c.Start(ProcessConfig{Name: controlPlaneName, Argv: append(argv, args...)})
	if err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	cp := c.controlPlane(process, ports[0], address)
	return cp, cp.WaitReady(ctx)
}

// ControlPlane returns the control plane that was started earlier, perhaps by another harness, or nil.
func (c *Cluster) ControlPlane() *ControlPlane {
	process := c.Process(controlPlaneName)
	if process == nil {
		return nil
	}
	argv := process.record().Argv
	for i, arg := range argv {
		if arg == "--secure-port" && i+1 < len(argv) {
			if port, err := strconv.Atoi(argv[i+1]); err == nil {
				return c.controlPlane(process, port, cloudAddress(c.state.Number))
			}
		}
	}
	return nil
}

func (c *Cluster) controlPlane(process *Process, port int, address string) *ControlPlane {
	return &ControlPlane{
		Process:    process,
		Kubeconfig: filepath.Join(c.controlPlaneDir(), "admin.kubeconfig"),
		Server:     fmt.Sprintf("https://%s:%d", address, port),
	}
}

func (c *Cluster) controlPlaneDir() string { return filepath.Join(c.dir, "controlplane") }

// AuthorityFile is where the cluster's CA certificate is, once the control plane has started.
func (c *Cluster) AuthorityFile() string { return filepath.Join(c.controlPlaneDir(), "pki", "ca.crt") }

// Certificates of the control plane, for Certificate.
const (
	// FrontProxyClient may name anybody as the caller to whoever trusts it.
	FrontProxyClient = "front-proxy-client"
	// KubeletClient is what the API server shows to kubelets.
	KubeletClient = "apiserver-kubelet-client"
)

// Certificate returns one that the control plane made.
func (c *Cluster) Certificate(name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(c.certificateFiles(name))
}

// certificateFiles are where it is, and its key.
func (c *Cluster) certificateFiles(name string) (cert, key string) {
	at := filepath.Join(c.controlPlaneDir(), "pki", name)
	return at + ".crt", at + ".key"
}

// KubeletConfig is access to the kubelet at host, host:port, as the API server has it. The server's certificate is not verified.
func (c *Cluster) KubeletConfig(host string) *rest.Config {
	cert, key := c.certificateFiles(KubeletClient)
	return &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{CertFile: cert, KeyFile: key, Insecure: true}}
}

func (c *Cluster) readyFile() string { return filepath.Join(c.dir, "controlplane.ready") }

// WaitReady waits until the control plane that runs now says that it is ready. Call it after Restart.
func (cp *ControlPlane) WaitReady(ctx context.Context) error {
	path := cp.cluster.readyFile()
	err := poll(controlPlaneReady, "the control plane to be ready", func() error {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("it has not said so yet")
		}
		if err != nil {
			return err
		}
		var ready struct {
			PID int `json:"pid"`
		}
		if err := json.Unmarshal(text, &ready); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if ready.PID != cp.PID() { // left by one that was killed
			return fmt.Errorf("expected process %d to be ready, found the word of process %d", cp.PID(), ready.PID)
		}
		return nil
	}, ctx.Err, func() error {
		if !cp.Alive() {
			return fmt.Errorf("it ended: %v", cp.Result())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start the control plane: %w; the end of its log:\n%s", err, cp.LogTail(15))
	}
	return nil
}

// RESTConfig is the admin's access for client-go, without client-side rate limits: tests count requests themselves.
func (cp *ControlPlane) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cp.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the admin's kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}
