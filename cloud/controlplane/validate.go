package controlplane

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Validate returns nil, or one error that lists every fault. It looks at the
// values only; the machine (ports, directories) is looked at by Start.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if c.DataDir == "" {
		fault("--data-dir is not set: name a directory for the state, such as --data-dir=/var/lib/tether-controlplane")
	}
	c.validateAddresses(fault)
	c.validatePorts(fault)

	if ip, _, err := net.ParseCIDR(c.ServiceClusterIPRange); err != nil || ip.To4() == nil {
		fault("--service-cluster-ip-range: expected an IPv4 range such as 10.96.0.0/12, found %q", c.ServiceClusterIPRange)
	} else if bits := prefixBits(c.ServiceClusterIPRange); bits < 12 || bits > 28 {
		fault("--service-cluster-ip-range: expected a prefix of /12 to /28, found %q", c.ServiceClusterIPRange)
	}
	if c.ClusterCIDR != "" {
		if _, _, err := net.ParseCIDR(c.ClusterCIDR); err != nil {
			fault("--cluster-cidr: expected nothing or a range such as 10.244.0.0/16, found %q", c.ClusterCIDR)
		}
	}
	for name, args := range c.ComponentArgs {
		if !slices.Contains(componentNames, name) {
			fault("--component-arg: expected one of %s, found %q", strings.Join(componentNames, ", "), name)
		}
		for _, a := range args {
			if !strings.HasPrefix(a, "--") {
				fault("--component-arg %s: expected a flag such as --v=4, found %q", name, a)
			}
		}
	}
	if c.StartTimeout <= 0 {
		fault("--start-timeout: expected more than 0, found %v", c.StartTimeout)
	}
	return errors.Join(faults...)
}

func (c *Config) validateAddresses(fault func(string, ...any)) {
	if net.ParseIP(c.BindAddress) == nil {
		fault("--bind-address: expected an IP address such as 127.0.0.1, found %q", c.BindAddress)
	}
	for _, a := range c.ExtraAddresses {
		if ip := net.ParseIP(a); ip == nil || ip.IsUnspecified() {
			fault("--extra-address: expected one IP address of this machine such as 10.200.0.1, found %q", a)
		}
	}
	if c.AdvertiseAddress != "" {
		if ip := net.ParseIP(c.AdvertiseAddress); ip.To4() == nil || ip.IsLoopback() || ip.IsUnspecified() {
			fault("--advertise-address: expected an IPv4 address that pods can reach (not loopback), found %q", c.AdvertiseAddress)
		}
	}
	for _, name := range c.ExtraSANs {
		if net.ParseIP(name) == nil && len(validation.IsDNS1123Subdomain(name)) > 0 && len(validation.IsWildcardDNS1123Subdomain(name)) > 0 {
			fault("--extra-san: expected a DNS name or an IP address, found %q", name)
		}
	}
}

func (c *Config) validatePorts(fault func(string, ...any)) {
	owner := map[int]string{}
	for _, p := range c.ports() {
		switch other := owner[*p.port]; {
		case *p.port < 0 || *p.port > 65535:
			fault("%s: expected a port from 1 to 65535, or 0 for any free one, found %d", p.flag, *p.port)
		case *p.port != 0 && other != "":
			fault("%s: port %d is already given to %s: choose another", p.flag, *p.port, other)
		default:
			owner[*p.port] = p.flag
		}
	}
}

func prefixBits(cidr string) int {
	_, ipnet, _ := net.ParseCIDR(cidr)
	bits, _ := ipnet.Mask.Size()
	return bits
}

// componentArgs is the flag value "COMPONENT=--FLAG[=VALUE]".
type componentArgs struct{ to *map[string][]string }

func (componentArgs) Type() string   { return "component=--flag" }
func (componentArgs) String() string { return "" }

func (a componentArgs) Set(s string) error {
	name, arg, found := strings.Cut(s, "=")
	if !found {
		return fmt.Errorf("expected COMPONENT=--FLAG, such as kube-apiserver=--v=4")
	}
	if *a.to == nil {
		*a.to = map[string][]string{}
	}
	(*a.to)[name] = append((*a.to)[name], arg)
	return nil
}
