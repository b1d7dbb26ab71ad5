package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// writeCNI configures the pod network: a bridge with addresses from PodSubnet, translated to the host's own address on
// the cable, since nothing outside has a route to it.
func (h *EdgeHost) writeCNI() error {
	conf := map[string]any{
		"cniVersion": "0.4.0", // understood by the plugins of Debian 12 and of every later one
		"name":       "tether",
		"plugins": []any{
			map[string]any{
				"type":        "bridge",
				"bridge":      "cni0",
				"isGateway":   true,
				"ipMasq":      true,
				"hairpinMode": true,
				"promiscMode": false,
				"ipam": map[string]any{
					"type":   "host-local",
					"ranges": []any{[]any{map[string]any{"subnet": h.PodSubnet()}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	text, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the pod network: %w", err)
	}
	path := filepath.Join(h.path("disk", "/etc/cni/net.d"), "10-tether.conflist")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the pod network: %w", err)
	}
	return nil
}
