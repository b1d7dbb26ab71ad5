package controlplane

import (
	"net"
	"time"

	"github.com/spf13/pflag"
)

// Config says where a control plane keeps its data and what it serves.
// Use [DefaultConfig] and change what differs.
type Config struct {
	// DataDir holds everything that must survive a restart: etcd's data, keys and
	// certificates, the admin kubeconfig (admin.kubeconfig) and the components' logs.
	// It is made if absent. A directory that holds files which are not ours is refused.
	DataDir string

	// BindAddress is an address the API server serves besides 127.0.0.1;
	// 0.0.0.0 or :: stands for every address of the machine.
	BindAddress string
	// ExtraAddresses are further addresses that the API server serves. Each must
	// be configured on an interface of this machine before the start.
	ExtraAddresses []string
	// SecurePort is the API server's port on each of those addresses. For this
	// and the other ports, 0 stands for any free one, chosen anew at each start.
	SecurePort int
	// EtcdPort, EtcdPeerPort, ControllerManagerPort and SchedulerPort are served on 127.0.0.1 only.
	EtcdPort, EtcdPeerPort, ControllerManagerPort, SchedulerPort int

	// AdvertiseAddress is the address that pods find behind the Service
	// default/kubernetes. Empty means the first of ExtraAddresses and BindAddress
	// that is not loopback. If there is none, the Service has no endpoints, since
	// Kubernetes allows no loopback address there and nothing else is served.
	AdvertiseAddress string
	// ExtraSANs are DNS names and IP addresses for the API server's certificate, besides
	// those it serves, the machine's name and the Service's names.
	ExtraSANs []string

	// ServiceClusterIPRange is the IPv4 range (CIDR) of Service addresses.
	ServiceClusterIPRange string
	// ClusterCIDR, if not empty, makes the controller-manager give each Node a part of this range
	// as its podCIDR. It is empty by default: edge nodes choose their pods'
	// addresses on their own site, and a podCIDR they do not follow would be a false statement.
	ClusterCIDR string

	// KubeconfigOut is a second place to write the admin kubeconfig to; may be empty.
	KubeconfigOut string
	// ReadyFile is written when everything is ready; may be empty.
	ReadyFile string

	// ComponentArgs are flags appended to a component's own, by component name.
	ComponentArgs map[string][]string
	// StartTimeout bounds the time from start to readiness.
	StartTimeout time.Duration
}

// DefaultConfig returns the defaults; DataDir must be set by the caller.
func DefaultConfig() Config {
	return Config{
		BindAddress:           loopback,
		SecurePort:            6443,
		EtcdPort:              2379,
		EtcdPeerPort:          2380,
		ControllerManagerPort: 10257,
		SchedulerPort:         10259,
		ServiceClusterIPRange: "10.96.0.0/12",
		StartTimeout:          2 * time.Minute,
	}
}

// AddFlags binds the fields to flags; the values already in c are the defaults shown.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "directory for all state, made if absent (required)")
	fs.StringVar(&c.BindAddress, "bind-address", c.BindAddress, "address the API server serves besides 127.0.0.1 (0.0.0.0: all)")
	fs.StringSliceVar(&c.ExtraAddresses, "extra-address", c.ExtraAddresses, "further address of this machine that the API server serves, such as 10.200.0.1 (repeatable)")
	fs.IntVar(&c.SecurePort, "secure-port", c.SecurePort, "port of the API server (0: any free one, also for the other ports)")
	fs.IntVar(&c.EtcdPort, "etcd-port", c.EtcdPort, "port of etcd for clients, on 127.0.0.1")
	fs.IntVar(&c.EtcdPeerPort, "etcd-peer-port", c.EtcdPeerPort, "port of etcd for peers, on 127.0.0.1")
	fs.IntVar(&c.ControllerManagerPort, "controller-manager-port", c.ControllerManagerPort, "port of kube-controller-manager, on 127.0.0.1")
	fs.IntVar(&c.SchedulerPort, "scheduler-port", c.SchedulerPort, "port of kube-scheduler, on 127.0.0.1")
	fs.StringVar(&c.AdvertiseAddress, "advertise-address", c.AdvertiseAddress, "address behind the Service default/kubernetes (default: the first served address that is not loopback)")
	fs.StringSliceVar(&c.ExtraSANs, "extra-san", c.ExtraSANs, "further DNS name or IP address for the API server's certificate (repeatable)")
	fs.StringVar(&c.ServiceClusterIPRange, "service-cluster-ip-range", c.ServiceClusterIPRange, "IPv4 range of Service addresses")
	fs.StringVar(&c.ClusterCIDR, "cluster-cidr", c.ClusterCIDR, "range from which each Node gets a podCIDR (default: Nodes get none)")
	fs.StringVar(&c.KubeconfigOut, "kubeconfig-out", c.KubeconfigOut, "second place for the admin kubeconfig, besides DATA-DIR/admin.kubeconfig")
	fs.StringVar(&c.ReadyFile, "ready-file", c.ReadyFile, "file written when everything is ready, removed at the stop (JSON: pid, server, kubeconfig, ports)")
	fs.Var(componentArgs{&c.ComponentArgs}, "component-arg", "flag for one component, such as kube-apiserver=--v=4 (repeatable)")
	fs.DurationVar(&c.StartTimeout, "start-timeout", c.StartTimeout, "time allowed from start to ready")
}

// serveAddresses lists the addresses that the API server listens on, loopback first.
func (c *Config) serveAddresses() []string {
	bind := net.ParseIP(c.BindAddress)
	if bind.IsUnspecified() {
		return []string{c.BindAddress} // covers all the others, and would collide with them
	}
	addresses, seen := []string{loopback}, map[string]bool{loopback: true}
	for _, a := range append([]string{c.BindAddress}, c.ExtraAddresses...) {
		if a = net.ParseIP(a).String(); !seen[a] {
			seen[a] = true
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// advertised returns the address for the Service default/kubernetes, or "" if none is fit for it.
func (c *Config) advertised() string {
	if c.AdvertiseAddress != "" {
		return c.AdvertiseAddress
	}
	for _, a := range append(append([]string{}, c.ExtraAddresses...), c.BindAddress) {
		if ip := net.ParseIP(a); ip.To4() != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			return a
		}
	}
	return ""
}

const loopback = "127.0.0.1"
