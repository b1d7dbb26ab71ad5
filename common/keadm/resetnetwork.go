package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// ownNetwork reads which network and which bridge join's own CNI configuration names; empty names if join wrote none.
func ownNetwork(root string) (network, bridge string, err error) {
	path := filepath.Join(root, networkDir, networkFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	var list struct {
		Name    string
		Plugins []struct{ Bridge string }
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err == nil && (list.Name == "" || len(list.Plugins) == 0 || list.Plugins[0].Bridge == "") {
		err = errors.New("expected the name of a network and of its bridge")
	}
	if err != nil {
		return "", "", fmt.Errorf("remove the pod network: %s: %w; remove the file, and what it made stays", path, err)
	}
	return list.Name, list.Plugins[0].Bridge, nil
}

// removeNetwork removes the pod network that join made, if it made one, and what the CNI plugins left of it. The pods
// have ended through the runtime, so that the plugins have removed what they could.
func (r *edgeReset) removeNetwork(ctx context.Context) error {
	network, bridge, err := ownNetwork(r.root)
	if err != nil || network == "" {
		return err
	}
	there, err := r.removeBridge(bridge)
	if err != nil {
		return err
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		dump, err := r.run(ctx, "", program+"-save", "-t", "nat")
		if err != nil {
			continue // a machine without the program or the table has no rules
		}
		if script := leftRules(string(dump), network); script != "" {
			if _, err := r.run(ctx, script, program+"-restore", "--noflush", "--wait", "5"); err != nil {
				return fmt.Errorf("remove the pod network's rules: %w", err)
			}
		}
	}
	state := filepath.Join(r.root, cniState)
	results, err := filepath.Glob(filepath.Join(state, "results", network+"-*"))
	if err != nil {
		return err
	}
	file := filepath.Join(r.root, networkDir, networkFile)
	if _, err := removeAll(append(results, filepath.Join(state, "networks", network), file)...); err != nil {
		return err
	}
	// The directory of the configurations stays: a runtime that watches it would hear of the next network no more.
	removeEmpty(filepath.Join(state, "networks"), filepath.Join(state, "results"), state)
	what := ""
	if there {
		what = ", its bridge " + bridge
	}
	fmt.Fprintf(r.w.Out, "removed  the pod network %s%s and what the CNI plugins left of it\n", network, what)
	if b, err := os.ReadFile(filepath.Join(r.root, "proc/sys/net/ipv4/ip_forward")); err == nil && strings.TrimSpace(string(b)) == "1" {
		fmt.Fprintln(r.w.Out, "left     net.ipv4.ip_forward at 1: who set it is not known; if nothing else needs it: sysctl -w net.ipv4.ip_forward=0")
	}
	return nil
}

// links are the network's links.
type links interface {
	// ports are what is plugged into a bridge; there is false if no bridge has the name.
	ports(bridge string) (names []string, there bool, err error)
	remove(bridge string) error
}

// kernelLinks are those of the network that keadm runs in.
type kernelLinks struct{}

func (kernelLinks) ports(bridge string) (names []string, there bool, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, false, err
	}
	i := slices.IndexFunc(all, func(l netlink.Link) bool { return l.Attrs().Name == bridge && l.Type() == "bridge" })
	if i < 0 {
		return nil, false, nil
	}
	for _, l := range all {
		if l.Attrs().MasterIndex == all[i].Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, true, nil
}

func (kernelLinks) remove(bridge string) error {
	l, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

// removeBridge removes the bridge, unless something is plugged in that is no pod's of ours any more. It reports whether
// it was there.
func (r *edgeReset) removeBridge(bridge string) (bool, error) {
	ports, there, err := r.links.ports(bridge)
	if err != nil {
		return there, fmt.Errorf("remove the bridge %s: %w", bridge, err)
	}
	if !there {
		return false, nil
	}
	if len(ports) > 0 {
		return true, fmt.Errorf("remove the bridge %s: expected nothing plugged in after the pods have ended, found %s; remove that (ip link delete %s), and run 'keadm reset edge' again", bridge, ports[0], ports[0])
	}
	if err := r.links.remove(bridge); err != nil {
		return true, fmt.Errorf("remove the bridge %s: %w; remove it (ip link delete %s), and run 'keadm reset edge' again", bridge, err, bridge)
	}
	return true, nil
}

// What the portmap plugin has for all networks: who is led to a pod, and what marks and translates the answers.
var portmapChains = []string{"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"}

// leftRules returns what iptables-restore --noflush has to be told to remove from a dump of the nat table: the rules of
// the network's pods, which name it, the chains that these lead to, and portmap's own once nobody's port is left in them.
// It is empty for nothing.
func leftRules(dump, network string) string {
	mark := `name: \"` + network + `\" id: \"`
	var chains, rules []string // as the dump has them, without the - of an append
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ = strings.Cut(name, " ")
			chains = append(chains, name)
		} else if rule, ok := strings.CutPrefix(line, "-A "); ok {
			rules = append(rules, rule)
		}
	}
	doomed := map[string]bool{}
	for _, r := range rules {
		if strings.Contains(r, mark) {
			for _, c := range []string{chainOf(r), targetOf(r)} {
				doomed[c] = strings.HasPrefix(c, "CNI-") && !slices.Contains(portmapChains, c)
			}
		}
	}
	goes := func(r string) bool { return strings.Contains(r, mark) || doomed[targetOf(r)] || doomed[chainOf(r)] }
	if !slices.ContainsFunc(rules, func(r string) bool { return chainOf(r) == portmapChains[0] && !goes(r) }) {
		for _, c := range portmapChains {
			doomed[c] = true
		}
	}
	var script strings.Builder
	for _, r := range rules {
		if goes(r) && !doomed[chainOf(r)] {
			script.WriteString("-D " + r + "\n")
		}
	}
	for _, verb := range []string{"-F ", "-X "} { // a chain that another leads to cannot go
		for _, c := range chains {
			if doomed[c] {
				script.WriteString(verb + c + "\n")
			}
		}
	}
	if script.Len() == 0 {
		return ""
	}
	return "*nat\n" + script.String() + "COMMIT\n"
}

func chainOf(rule string) string {
	chain, _, _ := strings.Cut(rule, " ")
	return chain
}

func targetOf(rule string) string {
	_, target, _ := strings.Cut(rule, " -j ")
	return chainOf(target)
}
