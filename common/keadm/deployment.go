package keadm

import (
	"context"
	"fmt"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build"
)

// privileged is the first port that a process without rights of its own may listen on.
const privileged = 1024

// deployment makes the manifests of CloudCore as a Deployment, with the configuration in file.
func (f *initFlags) deployment(ctx context.Context, w IO, client *clusterClient, cfg *v1alpha1.CloudCore, file []byte) ([]byte, error) {
	for name, port := range map[string]int{"hub.webSocketPort": cfg.Hub.WebSocketPort, "hub.quicPort": cfg.Hub.QUICPort, "join.port": cfg.Join.Port, "tunnel.firstPort": cfg.Tunnel.FirstPort,
		"tunnel.discoveryPort": cfg.Tunnel.DiscoveryPort} {
		if port != 0 && port < privileged {
			return nil, fmt.Errorf("%s is %d: expected %d or higher, since CloudCore runs as nobody in the cluster; install it with --local for lower ones", name, port, privileged)
		}
	}
	host, port, err := net.SplitHostPort(cfg.Metrics.BindAddress)
	if err != nil {
		return nil, fmt.Errorf("metrics.bindAddress: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	node := nodeWith(nodes.Items, cfg.Hub.AdvertiseAddresses)
	if node == "" && len(nodes.Items) > 1 {
		fmt.Fprintf(w.Err, "keadm: no node of the cluster has an address of %v: let them lead to the node on which CloudCore's pod runs (kubectl -n %s get pods -o wide), for it listens there\n",
			cfg.Hub.AdvertiseAddresses, build.Namespace)
	}
	return build.Deployment(build.DeploymentConfig{Image: f.image.cloudcore(), Config: file, WebSocketPort: cfg.Hub.WebSocketPort, QUICPort: cfg.Hub.QUICPort,
		JoinPort: cfg.Join.Port, MetricsHost: host, MetricsPort: port, Node: node}), nil
}

// nodeWith is the node that has one of the addresses, by the name in its label; empty if there is none.
func nodeWith(nodes []corev1.Node, addresses []string) string {
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if slices.Contains(addresses, a.Address) {
				return n.Labels[corev1.LabelHostname]
			}
		}
	}
	return ""
}
