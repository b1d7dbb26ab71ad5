package apitable

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/tests/cluster"
)

const (
	nodeName = "gateway-7"
	space    = "shop"
	patient  = 3 * time.Minute // for a control plane on a machine that compiles
)

// reality is a stock control plane, seen by the node.
type reality struct {
	admin kubernetes.Interface
	base  string
	node  http.RoundTripper // as the node
	root  http.RoundTripper // as the administrator
}

// startReality runs a control plane whose controllers leave Nodes and pods alone.
func startReality(t *testing.T) *reality {
	t.Helper()
	program, err := cluster.Program(t.Context(), "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	ready, output := dir+".ready", dir+".log"
	out, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	args := []string{"--data-dir=" + dir, "--ready-file=" + ready,
		"--component-arg=kube-controller-manager=--controllers=-ttl-controller,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller"}
	for _, port := range []string{"secure-port", "etcd-port", "etcd-peer-port", "controller-manager-port", "scheduler-port"} {
		args = append(args, "--"+port+"=0")
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	var info struct {
		Kubeconfig string `json:"kubeconfig"`
	}
	eventually(t, "the control plane is ready", func() error {
		b, err := os.ReadFile(ready)
		if err != nil {
			said, _ := os.ReadFile(output)
			return fmt.Errorf("%w; it said:\n%s", err, tail(said))
		}
		return json.Unmarshal(b, &info)
	})
	config, err := clientcmd.BuildConfigFromFlags("", info.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	return connect(t, config)
}

func tail(b []byte) []byte {
	lines := bytes.Split(b, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-10):], []byte("\n"))
}

func connect(t *testing.T, config *rest.Config) *reality {
	t.Helper()
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	asNode := rest.CopyConfig(config)
	asNode.Impersonate = rest.ImpersonationConfig{
		UserName: "system:node:" + nodeName, Groups: []string{"system:nodes", "system:authenticated"},
	}
	node, err := rest.TransportFor(asNode)
	if err != nil {
		t.Fatal(err)
	}
	root, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &reality{admin: admin, base: config.Host, node: node, root: root}
}

// eventually waits for what must come about.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", patient, what, err)
		case <-tick.C:
		}
	}
}
