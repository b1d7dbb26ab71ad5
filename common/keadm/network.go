package keadm

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/tether-edge/tether/common/pki"
)

// networkDir holds CNI configurations, networkFile is ours, cniState is where the plugins keep theirs.
const (
	networkDir  = "etc/cni/net.d"
	networkFile = "10-tether-edge.conflist"
	cniState    = "var/lib/cni"
)

// writeNetwork gives the machine a pod network, a bridge of its own, where it has no CNI configuration yet.
func writeNetwork(w IO, root, podCIDR string) error {
	dir := filepath.Join(root, networkDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("look for a pod network: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".conf" || ext == ".conflist" || ext == ".json" {
			fmt.Fprintf(w.Out, "kept     the pod network in %s\n", filepath.Join(dir, e.Name()))
			return nil
		}
	}
	prefix, err := netip.ParsePrefix(podCIDR)
	if err != nil || prefix.Masked() != prefix {
		return fmt.Errorf("%w: --pod-cidr: expected a network such as 10.244.0.0/24, found %q", errUsage, podCIDR)
	}
	everywhere := "0.0.0.0/0"
	if prefix.Addr().Is6() {
		everywhere = "::/0"
	}
	b, err := json.MarshalIndent(map[string]any{
		"cniVersion": "0.4.0", // what the plugins of Debian 12 and all later ones understand
		"name":       "tether",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "tether0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
				"ipam": map[string]any{"type": "host-local", "ranges": []any{[]any{map[string]any{"subnet": podCIDR}}},
					"routes": []any{map[string]any{"dst": everywhere}}},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, networkFile)
	if err := pki.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "wrote    a pod network (bridge tether0, %s) in %s\n", podCIDR, strings.TrimPrefix(path, "//"))
	return nil
}
