package v1alpha1

import "time"

// CloudCore configures cloudcore, which runs beside the cluster.
type CloudCore struct {
	TypeMeta `json:",inline"`
	// Kubeconfig is the path of the file that says how to reach the API server. Empty means the service account of
	// the pod that cloudcore runs in.
	Kubeconfig string  `json:"kubeconfig"`
	Hub        Hub     `json:"hub"`
	Join       Join    `json:"join"`
	Tunnel     Tunnel  `json:"tunnel"`
	Devices    Devices `json:"devices"`
	// Impersonation is how writes are made in a node's name: constrained (API servers from 1.36), legacy (needs the
	// separate ClusterRole, which is nearly cluster-admin), or auto, which asks the API server once.
	Impersonation Impersonation `json:"impersonation"`
	Lease         Lease         `json:"lease"`
	Metrics       Metrics       `json:"metrics"`
	Log           Log           `json:"log"`
}

// Impersonation names a way to act as a node.
type Impersonation string

// The ways to act as a node.
const (
	ImpersonationAuto        Impersonation = "auto"
	ImpersonationConstrained Impersonation = "constrained"
	ImpersonationLegacy      Impersonation = "legacy"
)

// Hub configures the side that edges connect to.
type Hub struct {
	// BindAddress is the IP address to listen on. Empty means every address of the machine, IPv4 and IPv6.
	BindAddress string `json:"bindAddress"`
	// WebSocketPort is the TCP port for edges.
	WebSocketPort int `json:"webSocketPort"`
	// QUICPort is the UDP port for edges that use QUIC. 0 means no QUIC.
	QUICPort int `json:"quicPort"`
	// AdvertiseAddresses are the DNS names or IP addresses by which edges and the API server reach this CloudCore.
	AdvertiseAddresses []string `json:"advertiseAddresses"`
	// MaxHandshakes bounds the connections that are inside TLS and Hello at one time, over TCP and as many over QUIC; three
	// quarters of each are for one address at most. More wait (TCP) or are told to try again (QUIC).
	MaxHandshakes int `json:"maxHandshakes"`
	// HandshakeTimeout bounds one connection's way from accept to Welcome.
	HandshakeTimeout Duration `json:"handshakeTimeout"`
	// MaxSessions bounds the edges connected at one time; further ones are told to come back.
	MaxSessions int `json:"maxSessions"`
	// ConnectRate is how many sessions may begin in a second, a second's worth more after rest. Beyond it an edge is told when to come
	// back. 0 is no bound.
	ConnectRate float64 `json:"connectRate"`
	// Balance lets a CloudCore that has more than its share of the edges send some away, one by one, so that they connect to others.
	Balance bool `json:"balance"`
	// MaxInFlightBytes bounds what one session may have sent and not yet seen acknowledged.
	MaxInFlightBytes Bytes `json:"maxInFlightBytes"`
	// MaxHeldBytes bounds what all sessions together have that is not answered or not read yet: a quarter for what comes, as much again for what
	// that opens to, and half for replies, beside one for each edge. Beyond it no more than 16 KiB of a frame are read.
	MaxHeldBytes Bytes `json:"maxHeldBytes"`
	// Coalesce is the least time between two versions of one object on one session. The first goes at once.
	Coalesce Duration `json:"coalesce"`
}

// Join configures the port at which edges get and renew their certificates.
type Join struct {
	// Port is the TCP port, at the hub's bind address.
	Port int `json:"port"`
	// CertificateLife is how long a node's certificate is valid. Edges renew it at two thirds of that.
	CertificateLife Duration `json:"certificateLife"`
	// RenewalGrace is how long after its end a certificate can still be exchanged for a new one: the longest time that
	// an edge may be away without joining again.
	RenewalGrace Duration `json:"renewalGrace"`
	// MaxConnections bounds the connections served at one time, three quarters of it those of one address; more wait.
	MaxConnections int `json:"maxConnections"`
}

// Tunnel configures where the API server, and whoever else may, asks the kubelets of edges.
type Tunnel struct {
	// AdvertiseAddress is the IP address or DNS name by which the API server reaches this CloudCore: the address that edge
	// Nodes show. Empty means the first of hub.advertiseAddresses.
	AdvertiseAddress string `json:"advertiseAddress"`
	// FirstPort to LastPort are the TCP ports, at the hub's bind address; each edge node has one of them for itself, for
	// ever. FirstPort 0 means no tunnel: no kubectl logs or exec.
	FirstPort int `json:"firstPort"`
	LastPort  int `json:"lastPort"`
	// DiscoveryPort is the TCP port, at the hub's bind address, where scrapers that may list nodes learn which kubelets
	// there are, and anybody the health of this CloudCore. 0 means none.
	DiscoveryPort int `json:"discoveryPort"`
	// ServingCertificate says who signs the certificate of these ports.
	ServingCertificate ServingCertificate `json:"servingCertificate"`
}

// ServingCertificate names a signer.
type ServingCertificate string

// The signers. Cluster is its signer of kubelets' certificates, which an API server that verifies kubelets trusts; where
// it does not sign, and with EdgeCA, the edge CA does.
const (
	ServingCertificateCluster ServingCertificate = "cluster"
	ServingCertificateEdgeCA  ServingCertificate = "edge-ca"
)

// Devices configures the writing of DeviceStatuses, of this CloudCore alone.
type Devices struct {
	// RatePerDevice is how many writes a second one device may cause for long; as many go at once.
	RatePerDevice float64 `json:"ratePerDevice"`
	// RateOfAll is how many all devices together may cause; twice as many go at once.
	RateOfAll float64 `json:"rateOfAll"`
}

// Lease configures the Leases that CloudCore renews for connected nodes.
type Lease struct {
	// RenewInterval is the time between two renewals. Each costs the API server one write per node.
	RenewInterval Duration `json:"renewInterval"`
	// Duration is the leaseDurationSeconds written, in whole seconds.
	Duration Duration `json:"duration"`
}

// DefaultCloudCore returns the configuration that an empty file stands for.
func DefaultCloudCore() *CloudCore {
	return &CloudCore{
		TypeMeta: TypeMeta{APIVersion: APIVersion, Kind: KindCloudCore},
		Hub: Hub{
			WebSocketPort:      10000,
			QUICPort:           10001,
			AdvertiseAddresses: []string{},
			MaxHandshakes:      256,
			HandshakeTimeout:   Duration(30 * time.Second),
			MaxSessions:        10000,
			ConnectRate:        1000,
			Balance:            true,
			MaxInFlightBytes:   1 << 20,
			MaxHeldBytes:       256 << 20,
			Coalesce:           Duration(250 * time.Millisecond),
		},
		Join: Join{Port: 10002, CertificateLife: Duration(7 * 24 * time.Hour), RenewalGrace: Duration(90 * 24 * time.Hour),
			MaxConnections: 256},
		Tunnel:        Tunnel{FirstPort: 20000, LastPort: 59999, DiscoveryPort: 10003, ServingCertificate: ServingCertificateCluster},
		Devices:       Devices{RatePerDevice: 5, RateOfAll: 200},
		Impersonation: ImpersonationAuto,
		Lease:         Lease{RenewInterval: Duration(15 * time.Second), Duration: Duration(40 * time.Second)},
		Metrics:       Metrics{BindAddress: "127.0.0.1:10004"},
		Log:           Log{Level: "info", Format: "text"},
	}
}

// Validate returns nil or Faults with everything that is wrong with c.
func (c *CloudCore) Validate() error {
	var f faults
	f.header(c.TypeMeta, KindCloudCore)
	f.optionalPath("kubeconfig", c.Kubeconfig)
	h := c.Hub
	f.optionalIP("hub.bindAddress", h.BindAddress)
	f.port("hub.webSocketPort", h.WebSocketPort)
	f.optionalPort("hub.quicPort", h.QUICPort)
	for i, a := range h.AdvertiseAddresses {
		f.host(index("hub.advertiseAddresses", i), a)
	}
	f.between("hub.maxHandshakes", h.MaxHandshakes, 1, 100_000)
	f.duration("hub.handshakeTimeout", h.HandshakeTimeout, time.Second, 5*time.Minute)
	f.between("hub.maxSessions", h.MaxSessions, 1, 1_000_000)
	if h.ConnectRate != 0 {
		f.rate("hub.connectRate", h.ConnectRate)
	}
	// One object may be 1.5 MiB in etcd's default; a window below 64 KiB would only cost round trips.
	f.bytes("hub.maxInFlightBytes", h.MaxInFlightBytes, 64<<10, 1<<30)
	f.bytes("hub.maxHeldBytes", h.MaxHeldBytes, 16<<20, 1<<40)
	f.duration("hub.coalesce", h.Coalesce, 0, time.Minute)
	f.port("join.port", c.Join.Port)
	f.duration("join.certificateLife", c.Join.CertificateLife, 10*time.Minute, 366*24*time.Hour)
	f.duration("join.renewalGrace", c.Join.RenewalGrace, 0, 10*366*24*time.Hour)
	f.between("join.maxConnections", c.Join.MaxConnections, 1, 100_000)
	if t := c.Tunnel; t.FirstPort != 0 {
		f.port("tunnel.firstPort", t.FirstPort)
		f.between("tunnel.lastPort", t.LastPort, t.FirstPort, 65535)
		f.optionalPort("tunnel.discoveryPort", t.DiscoveryPort)
	}
	if c.Tunnel.AdvertiseAddress != "" {
		f.host("tunnel.advertiseAddress", c.Tunnel.AdvertiseAddress)
	}
	f.rate("devices.ratePerDevice", c.Devices.RatePerDevice)
	f.rate("devices.rateOfAll", c.Devices.RateOfAll)
	oneOf(&f, "tunnel.servingCertificate", c.Tunnel.ServingCertificate, ServingCertificateCluster, ServingCertificateEdgeCA)
	oneOf(&f, "impersonation", c.Impersonation, ImpersonationAuto, ImpersonationConstrained, ImpersonationLegacy)
	f.duration("lease.duration", c.Lease.Duration, 10*time.Second, 10*time.Minute)
	if c.Lease.Duration.Std()%time.Second != 0 {
		f.add("lease.duration", "whole seconds", c.Lease.Duration)
	}
	// Two renewals must fit into one lease, or a single slow write makes a healthy node NotReady.
	f.duration("lease.renewInterval", c.Lease.RenewInterval, time.Second, c.Lease.Duration.Std()/2)
	c.Metrics.validate(&f)
	f.log(c.Log)
	return f.err()
}

// LoadCloudCore reads, decodes and validates the file at path.
func LoadCloudCore(path string) (*CloudCore, error) { return load(path, DecodeCloudCore) }

// DecodeCloudCore decodes YAML or JSON on top of the defaults and validates the result. The error holds every fault.
func DecodeCloudCore(data []byte) (*CloudCore, error) {
	c := DefaultCloudCore()
	return c, decode(data, c, &c.TypeMeta, c.Validate)
}
