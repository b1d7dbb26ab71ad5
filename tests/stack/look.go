package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/tests/cluster"
)

// Find returns the edge that another process set up on a host with NewEdge and StartCore. Its WaitReady needs the
// stack and cannot be used.
func Find(c *cluster.Cluster, h *cluster.EdgeHost) *Edge {
	dir := edgeDir(h)
	return &Edge{EdgeHost: h, dir: dir, config: filepath.Join(dir, "edgecore.yaml"), Supervisor: c.Process(supervisorName(h))}
}

// EdgeStatus is what edgecore says of itself; it is a part of what /status on its metrics address answers.
type EdgeStatus struct {
	Link struct {
		Connected bool
		Synced    bool // the session has caught up with the cloud
		Server    string
		Protocol  string
		Session   string // the session's name, another one after each connect
		Since     time.Time
		Problem   string // why there is no link
	} `json:"link"`
	Kubelet struct {
		State    string `json:"state"`
		Reason   string `json:"reason"`
		Attempts int    `json:"attempts"` // starts that ended the process
	} `json:"kubelet"`
	// Outbox is what waits for the cloud, by class.
	Outbox []struct {
		Class string `json:"class"`
		Count int64  `json:"count"`
	} `json:"outbox"`
}

// Status asks edgecore how it is, from inside its network: it answers with and without the cloud.
func (e *Edge) Status(ctx context.Context) (EdgeStatus, error) {
	var s EdgeStatus
	body, err := e.Get(ctx, e.Metrics()+"/status")
	if err != nil {
		return s, fmt.Errorf("ask edgecore for its status: %w", err)
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return s, fmt.Errorf("ask edgecore for its status: %w", err)
	}
	return s, nil
}

// Kubeconfig is what kubectl inside the edge host needs to reach edgecore's own API.
func (e *Edge) Kubeconfig() string { return filepath.Join(e.DataDir(), "admin.kubeconfig") }

// LocalAPI is a client of edgecore's own API at its address on loopback, as somebody at the gateway has it. It is the same one until
// edgecore has made its certificates anew: each keeps a connection open for a while.
func (e *Edge) LocalAPI() (kubernetes.Interface, error) {
	text, err := os.ReadFile(e.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of the local API: %w", err)
	}
	e.local.Lock()
	defer e.local.Unlock()
	if e.local.client != nil && e.local.kubeconfig == string(text) {
		return e.local.client, nil
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of the local API: %w", err)
	}
	config.Dial, config.Timeout = e.DialContext, 5*time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the local API: %w", err)
	}
	e.local.client, e.local.kubeconfig = client, string(text)
	return client, nil
}

// Config is edgecore's configuration file.
func (e *Edge) Config() string { return e.config }
