package v1alpha1

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// EdgeCore configures edgecore, which runs on an edge node.
type EdgeCore struct {
	TypeMeta `json:",inline"`
	// NodeName is this node's name in the cluster. The certificate must carry the same one.
	NodeName string `json:"nodeName"`
	// DataDir holds the database, its copy and the kubelet's marks. It must be on a local file system.
	DataDir  string      `json:"dataDir"`
	Cloud    Cloud       `json:"cloud"`
	API      API         `json:"api"`
	Kubelet  Kubelet     `json:"kubelet"`
	Images   Images      `json:"images"`
	Store    StoreConfig `json:"store"`
	Autonomy Autonomy    `json:"autonomy"`
	Steward  Steward     `json:"steward"`
	Devices  EdgeDevices `json:"devices"`
	// Drills lets whoever may change this node's Node have its link cut for a while, to see whether the site goes on alone.
	Drills  bool    `json:"drills"`
	Metrics Metrics `json:"metrics"`
	Log     Log     `json:"log"`
}

// Cloud says how to reach CloudCore.
type Cloud struct {
	// Servers are the host:port of CloudCores for WebSocket, tried in random order.
	Servers []string `json:"servers"`
	// Protocol is what carries the link: websocket, quic, or auto, which races the two, prefers QUIC, and falls back to
	// WebSocket where UDP does not get through.
	Protocol Protocol `json:"protocol"`
	// QUICPort is the UDP port of the same CloudCores for QUIC. 0 means that they have none.
	QUICPort int `json:"quicPort"`
	// JoinPort is the port of the same CloudCores at which this node's certificate is renewed.
	JoinPort int `json:"joinPort"`
	// Proxy is what the link and the renewals go through: empty for what the environment says, none, or the URL of a
	// proxy that knows CONNECT, such as http://user:password@proxy:3128. QUIC goes through none.
	Proxy string `json:"proxy"`
	// CAFile holds the authorities (PEM) that may vouch for CloudCore. It is written when a certificate is renewed.
	CAFile string `json:"caFile"`
	// CertFile and KeyFile are this node's identity (PEM). They are read again when they change; edgecore writes CertFile
	// when it renews it.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// PingInterval is the silence after which the link is pinged; three missed answers end it. Up to two minutes, for
	// links that are paid by the byte.
	PingInterval Duration `json:"pingInterval"`
}

// Protocol names what carries the link.
type Protocol string

// The protocols of the link.
const (
	ProtocolAuto      Protocol = "auto"
	ProtocolWebSocket Protocol = "websocket"
	ProtocolQUIC      Protocol = "quic"
)

// API configures the node's own Kubernetes API.
type API struct {
	// BindAddress is the loopback host:port at which local clients reach it over TLS. The kubelet needs no port.
	BindAddress string `json:"bindAddress"`
}

// CgroupDriver names who manages cgroups.
type CgroupDriver string

// The cgroup drivers. Auto asks the container runtime, else looks for systemd.
const (
	CgroupAuto     CgroupDriver = "auto"
	CgroupCgroupfs CgroupDriver = "cgroupfs"
	CgroupSystemd  CgroupDriver = "systemd"
)

// Kubelet configures the embedded kubelet. Names and meanings are KubeletConfiguration's where it has the field.
type Kubelet struct {
	// ContainerRuntimeEndpoint is the CRI socket, as unix:///path.
	ContainerRuntimeEndpoint string `json:"containerRuntimeEndpoint"`
	// ImageServiceEndpoint is the CRI image socket, as unix:///path. Empty means the runtime's. The kubelet reaches it through
	// edgecore's own image service.
	ImageServiceEndpoint string `json:"imageServiceEndpoint"`
	// RootDir holds pod volumes.
	RootDir string `json:"rootDir"`
	// Port is the kubelet's own, on loopback only.
	Port int `json:"port"`
	// CgroupDriver is auto, cgroupfs or systemd.
	CgroupDriver CgroupDriver `json:"cgroupDriver"`
	// CgroupRoot is the cgroup under which pods are placed. Empty means the runtime's root.
	CgroupRoot string `json:"cgroupRoot"`
	MaxPods    int    `json:"maxPods"`
	// StaticPodPath is a directory of manifests that run with or without the cloud. Empty means none.
	StaticPodPath string `json:"staticPodPath"`
	// NodeIP is the node's address in the cluster's eyes. Empty means the one of the default route.
	NodeIP string `json:"nodeIP"`
	// NodeLabels are set when the node registers. Labels of kubernetes.io are limited to those a kubelet may set.
	NodeLabels map[string]string `json:"nodeLabels"`
	// RegisterWithTaints are set when the node registers.
	RegisterWithTaints []Taint `json:"registerWithTaints"`
	// ClusterDNS are the IP addresses of the name servers for pods with the ClusterFirst policy. Empty means the host's.
	ClusterDNS    []string `json:"clusterDNS"`
	ClusterDomain string   `json:"clusterDomain"`
	// EvictionHard maps eviction signals to a quantity or a percentage. A file's map replaces the default one, as in
	// the kubelet: who names one signal means that one only. {} switches eviction off.
	EvictionHard map[string]string `json:"evictionHard"`
	// EvictionPressureTransitionPeriod is how long the node shows that it is short of memory, disk or processes, and takes no
	// pods, after it last was.
	EvictionPressureTransitionPeriod Duration `json:"evictionPressureTransitionPeriod"`
	// ImageGCHighThresholdPercent is how full the images' file system is, in percent, when unused images are removed, down to
	// ImageGCLowThresholdPercent. ImageMinimumGCAge is how long an image is here at the least. Images of pods of this node stay.
	ImageGCHighThresholdPercent int      `json:"imageGCHighThresholdPercent"`
	ImageGCLowThresholdPercent  int      `json:"imageGCLowThresholdPercent"`
	ImageMinimumGCAge           Duration `json:"imageMinimumGCAge"`
}

// Images configures what edgecore does between the kubelet and the container runtime.
type Images struct {
	// Socket is where the kubelet finds edgecore's image service: a Unix socket of this edgecore's alone, best where a full disk
	// and a reboot leave nothing.
	Socket string `json:"socket"`
	// FallBack lets an image that is here serve a pull whose registry is not heard, to those whom the registry gave it.
	FallBack bool `json:"fallBack"`
	// Patience is how long a registry has for an answer before that.
	Patience Duration `json:"patience"`
	// MaxPulls is how many images are downloaded at a time.
	MaxPulls int `json:"maxPulls"`
}

// Taint keeps pods without a matching toleration away from a node.
type Taint struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
	// Effect is NoSchedule, PreferNoSchedule or NoExecute.
	Effect string `json:"effect"`
}

// StoreConfig configures the database.
type StoreConfig struct {
	// FreeSpaceFloor is the free disk space below which only what must not be lost is written.
	FreeSpaceFloor Bytes `json:"freeSpaceFloor"`
	// EventQuota bounds the undelivered events kept. The oldest go first, counted.
	EventQuota Bytes `json:"eventQuota"`
	// CopyInterval is the least time between two refreshes of the second copy.
	CopyInterval Duration `json:"copyInterval"`
	// WriteBudget is how many bytes the database may write within an hour before a warning says what for. 0 means any number.
	WriteBudget Bytes `json:"writeBudget"`
	// TPM is the device of the TPM 2.0 that seals the keys of stored Secrets and tokens, or the Unix socket of one. Where
	// there is none, or it is empty, a systemd credential named tether-seal does, else a key file.
	TPM string `json:"tpm"`
}

// Steward configures which pods the site keeps, and which it gives up, while the cloud is away.
type Steward struct {
	// StandIns has a pod that the kubelet ended for good, evicted for instance, replaced by a copy while its controller cannot hear of it.
	StandIns bool `json:"standIns"`
	// FenceAfter is how long the cloud may not be heard before pods annotated tether.io/fence: "true" are ended, until it is heard
	// again; 0 for never.
	FenceAfter Duration `json:"fenceAfter"`
}

// Autonomy configures what the node says of how long it can go on without the cloud.
type Autonomy struct {
	// AtLeast is how long it should be: with less, the Node's condition tether.io/Autonomy is False.
	AtLeast Duration `json:"atLeast"`
}

// EdgeDevices configures how devices reach this node.
type EdgeDevices struct {
	// MapperSocket is the Unix socket at which mappers register (DMI). Empty means none.
	MapperSocket string `json:"mapperSocket"`
	// ReportPause is the least time between two statuses of one device that are sent to the cloud; what is reported meanwhile
	// goes with the next.
	ReportPause Duration `json:"reportPause"`
	MQTT        MQTT     `json:"mqtt"`
	HTTP        HTTP     `json:"http"`
}

// MQTT configures the broker, or which one is used.
type MQTT struct {
	// Mode is internal for the broker in edgecore, external for one that is there, or off.
	Mode MQTTMode `json:"mode"`
	// BindAddress is the host:port of the internal broker, without TLS. Anonymous lets clients in without a name, and with all
	// rights, where that is a loopback address.
	BindAddress string     `json:"bindAddress"`
	Anonymous   bool       `json:"anonymous"`
	TLS         MQTTTLS    `json:"tls"`
	Users       []MQTTUser `json:"users"`
	// UsersSecret names a Secret with more users of the internal broker, and of HTTP. It is used while it is at this node, which is as
	// long as a pod of the node refers to it. Empty means none.
	UsersSecret MQTTUsersSecret `json:"usersSecret"`
	Server      MQTTServer      `json:"server"`
}

// HTTP configures the ports at which devices are shown and their methods called. Users and anonymous are those of MQTT,
// whatever its mode.
type HTTP struct {
	// BindAddress is a loopback host:port without TLS. Empty means none.
	BindAddress string `json:"bindAddress"`
	// Timeout is how long a call of a method may take that does not say so.
	Timeout Duration `json:"timeout"`
	TLS     MQTTTLS  `json:"tls"`
}

// MQTTUsersSecret names a Secret whose key MQTTUsersKey has a list of MQTTUsers in YAML.
type MQTTUsersSecret struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// MQTTUsersKey is the key of the users in their Secret.
const MQTTUsersKey = "users.yaml"

// MQTTMode says which broker is used.
type MQTTMode string

// The brokers.
const (
	MQTTInternal MQTTMode = "internal"
	MQTTExternal MQTTMode = "external"
	MQTTOff      MQTTMode = "off"
)

// MQTTTLS is another port, with TLS, of the internal broker or of HTTP.
type MQTTTLS struct {
	// BindAddress is its host:port; empty means none. CertFile and KeyFile (PEM) are read again when they change.
	BindAddress string `json:"bindAddress"`
	CertFile    string `json:"certFile"`
	KeyFile     string `json:"keyFile"`
}

// MQTTUser may connect to the internal broker with a password.
type MQTTUser struct {
	Name string `json:"name"`
	// PasswordHash is bcrypt's, as htpasswd -nB writes it behind the colon.
	PasswordHash string       `json:"passwordHash"`
	ACL          []MQTTAccess `json:"acl"`
}

// MQTTAccess is what a user may do with topics. Rights add up; what nothing allows is refused.
type MQTTAccess struct {
	// Filter is an MQTT topic filter.
	Filter string `json:"filter"`
	Read   bool   `json:"read"`
	Write  bool   `json:"write"`
}

// MQTTServer is a broker that is there.
type MQTTServer struct {
	// URL is tcp://host:port or ssl://host:port.
	URL  string `json:"url"`
	User string `json:"user"`
	// PasswordFile holds the user's password. CAFile (PEM) is what the broker's certificate is checked against, the system's
	// roots if empty; CertFile and KeyFile are this node's certificate for it, none if empty.
	PasswordFile string `json:"passwordFile"`
	CAFile       string `json:"caFile"`
	CertFile     string `json:"certFile"`
	KeyFile      string `json:"keyFile"`
}

// DefaultEdgeCore returns what an empty file stands for. nodeName and cloud.servers have no default.
func DefaultEdgeCore() *EdgeCore {
	return &EdgeCore{
		TypeMeta: TypeMeta{APIVersion: APIVersion, Kind: KindEdgeCore},
		DataDir:  "/var/lib/tether",
		Cloud: Cloud{
			Servers:      []string{},
			Protocol:     ProtocolWebSocket,
			QUICPort:     10001,
			JoinPort:     10002,
			CAFile:       "/etc/tether/pki/ca.crt",
			CertFile:     "/etc/tether/pki/node.crt",
			KeyFile:      "/etc/tether/pki/node.key",
			PingInterval: Duration(15 * time.Second),
		},
		API: API{BindAddress: "127.0.0.1:10550"},
		Kubelet: Kubelet{
			ContainerRuntimeEndpoint: "unix:///run/containerd/containerd.sock",
			RootDir:                  "/var/lib/kubelet",
			Port:                     10350,
			CgroupDriver:             CgroupAuto,
			MaxPods:                  110,
			NodeLabels:               map[string]string{},
			RegisterWithTaints:       []Taint{},
			ClusterDNS:               []string{},
			ClusterDomain:            "cluster.local",
			EvictionHard:             defaultEviction(),

			EvictionPressureTransitionPeriod: Duration(5 * time.Minute),

			ImageGCHighThresholdPercent: 85,
			ImageGCLowThresholdPercent:  80,
			ImageMinimumGCAge:           Duration(2 * time.Minute),
		},
		Images: Images{Socket: "/run/tether/image.sock", FallBack: true, Patience: Duration(15 * time.Second), MaxPulls: 3},
		Store: StoreConfig{
			FreeSpaceFloor: 64 << 20,
			EventQuota:     8 << 20,
			CopyInterval:   Duration(time.Hour),
			WriteBudget:    64 << 20,
			TPM:            "/dev/tpmrm0",
		},
		Steward:  Steward{StandIns: true},
		Autonomy: Autonomy{AtLeast: Duration(72 * time.Hour)},
		Devices: EdgeDevices{MapperSocket: "/etc/kubeedge/dmi.sock", ReportPause: Duration(100 * time.Millisecond),
			MQTT: MQTT{Mode: MQTTInternal, BindAddress: "127.0.0.1:1884", Anonymous: true, Users: []MQTTUser{}},
			HTTP: HTTP{BindAddress: "127.0.0.1:9060", Timeout: Duration(30 * time.Second)}},
		Drills:  true,
		Metrics: Metrics{BindAddress: "127.0.0.1:10351"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// defaultEviction is the stock kubelet's default on Linux.
func defaultEviction() map[string]string {
	return map[string]string{
		"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
		"imagefs.available": "15%", "imagefs.inodesFree": "5%",
	}
}

// Validate returns nil or Faults with everything that is wrong with c.
func (c *EdgeCore) Validate() error {
	var f faults
	f.header(c.TypeMeta, KindEdgeCore)
	f.nodeName("nodeName", c.NodeName)
	f.path("dataDir", c.DataDir)
	if len(c.Cloud.Servers) == 0 {
		f.add("cloud.servers", "at least one host:port of a CloudCore", verbatim("none"))
	}
	for i, s := range c.Cloud.Servers {
		f.hostPort(index("cloud.servers", i), s)
	}
	oneOf(&f, "cloud.protocol", c.Cloud.Protocol, ProtocolAuto, ProtocolWebSocket, ProtocolQUIC)
	f.optionalPort("cloud.quicPort", c.Cloud.QUICPort)
	if c.Cloud.Protocol == ProtocolQUIC && c.Cloud.QUICPort == 0 {
		f.add("cloud.quicPort", "a port, since cloud.protocol is quic", c.Cloud.QUICPort)
	}
	f.port("cloud.joinPort", c.Cloud.JoinPort)
	f.proxy("cloud.proxy", c.Cloud.Proxy)
	f.path("cloud.caFile", c.Cloud.CAFile)
	f.path("cloud.certFile", c.Cloud.CertFile)
	f.path("cloud.keyFile", c.Cloud.KeyFile)
	f.duration("cloud.pingInterval", c.Cloud.PingInterval, time.Second, 2*time.Minute)
	f.loopback("api.bindAddress", c.API.BindAddress)
	c.Kubelet.validate(&f)
	f.path("images.socket", c.Images.Socket)
	f.duration("images.patience", c.Images.Patience, time.Second, time.Hour)
	f.between("images.maxPulls", c.Images.MaxPulls, 1, 100)
	f.bytes("store.freeSpaceFloor", c.Store.FreeSpaceFloor, 0, 1<<40)
	f.bytes("store.eventQuota", c.Store.EventQuota, 0, 1<<40)
	f.duration("store.copyInterval", c.Store.CopyInterval, time.Second, 30*24*time.Hour)
	f.bytes("store.writeBudget", c.Store.WriteBudget, 0, 1<<40)
	f.optionalPath("store.tpm", c.Store.TPM)
	if c.Steward.FenceAfter != 0 {
		f.duration("steward.fenceAfter", c.Steward.FenceAfter, time.Minute, 30*24*time.Hour)
	}
	f.duration("autonomy.atLeast", c.Autonomy.AtLeast, time.Minute, 366*24*time.Hour)
	c.Devices.validate(&f)
	c.Metrics.validate(&f)
	f.log(c.Log)
	return f.err()
}

func (k *Kubelet) validate(f *faults) {
	f.socket("kubelet.containerRuntimeEndpoint", k.ContainerRuntimeEndpoint)
	if k.ImageServiceEndpoint != "" {
		f.socket("kubelet.imageServiceEndpoint", k.ImageServiceEndpoint)
	}
	f.path("kubelet.rootDir", k.RootDir)
	f.port("kubelet.port", k.Port)
	oneOf(f, "kubelet.cgroupDriver", k.CgroupDriver, CgroupAuto, CgroupCgroupfs, CgroupSystemd)
	f.optionalPath("kubelet.cgroupRoot", k.CgroupRoot)
	f.between("kubelet.maxPods", k.MaxPods, 1, 10_000)
	f.optionalPath("kubelet.staticPodPath", k.StaticPodPath)
	f.optionalIP("kubelet.nodeIP", k.NodeIP)
	for _, key := range slices.Sorted(maps.Keys(k.NodeLabels)) {
		f.label(fmt.Sprintf("kubelet.nodeLabels[%s]", key), key, k.NodeLabels[key])
	}
	for i, t := range k.RegisterWithTaints {
		p := index("kubelet.registerWithTaints", i)
		f.qualifiedName(p+".key", t.Key)
		f.labelValue(p+".value", t.Value)
		oneOf(f, p+".effect", t.Effect, "NoSchedule", "PreferNoSchedule", "NoExecute")
	}
	for i, a := range k.ClusterDNS {
		f.ip(index("kubelet.clusterDNS", i), a)
	}
	f.domain("kubelet.clusterDomain", k.ClusterDomain)
	for _, signal := range slices.Sorted(maps.Keys(k.EvictionHard)) {
		f.eviction(fmt.Sprintf("kubelet.evictionHard[%s]", signal), signal, k.EvictionHard[signal])
	}
	f.duration("kubelet.evictionPressureTransitionPeriod", k.EvictionPressureTransitionPeriod, time.Second, 24*time.Hour)
	f.between("kubelet.imageGCHighThresholdPercent", k.ImageGCHighThresholdPercent, 1, 100)
	f.between("kubelet.imageGCLowThresholdPercent", k.ImageGCLowThresholdPercent, 0, 99)
	if k.ImageGCLowThresholdPercent >= k.ImageGCHighThresholdPercent {
		f.add("kubelet.imageGCLowThresholdPercent", "a number below kubelet.imageGCHighThresholdPercent", k.ImageGCLowThresholdPercent)
	}
	f.duration("kubelet.imageMinimumGCAge", k.ImageMinimumGCAge, 0, 365*24*time.Hour)
}

// LoadEdgeCore reads, decodes and validates the file at path.
func LoadEdgeCore(path string) (*EdgeCore, error) { return load(path, DecodeEdgeCore) }

// DecodeEdgeCore decodes YAML or JSON on top of the defaults and validates the result. The error holds every fault.
func DecodeEdgeCore(data []byte) (*EdgeCore, error) {
	c := DefaultEdgeCore()
	return c, decode(data, c, &c.TypeMeta, c.Validate)
}

// HasUsers reports whether the users of MQTT are anybody's: the internal broker's or HTTP's.
func (d *EdgeDevices) HasUsers() bool {
	return d.MQTT.Mode == MQTTInternal || d.HTTP.BindAddress != "" || d.HTTP.TLS.BindAddress != ""
}

// bcryptHash is what htpasswd -B, mkpasswd and others write.
var bcryptHash = regexp.MustCompile(`^\$2[abxy]?\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)

// validateUsers judges users where they are anybody's. A fault repeats no hash.
func (d *EdgeDevices) validateUsers(f *faults) {
	secret := d.MQTT.UsersSecret
	switch {
	case (secret.Namespace == "") != (secret.Name == ""):
		f.add("devices.mqtt.usersSecret", "namespace and name, or neither", secret)
	case secret.Name != "" && d.MQTT.Mode == MQTTExternal:
		f.add("devices.mqtt.usersSecret", "none, since devices.mqtt.mode is external: the broker that is there has users of its own", secret)
	case secret.Name != "" && !d.HasUsers():
		f.add("devices.mqtt.usersSecret", "none, since devices.mqtt.mode is off, and devices.http, too", secret)
	}
	if !d.HasUsers() {
		return
	}
	for i, u := range d.MQTT.Users {
		if !bcryptHash.MatchString(u.PasswordHash) {
			f.add(index("devices.mqtt.users", i)+".passwordHash", "a bcrypt hash", verbatim("something else"))
		}
	}
}

func (d *EdgeDevices) validate(f *faults) {
	f.optionalPath("devices.mapperSocket", d.MapperSocket)
	f.duration("devices.reportPause", d.ReportPause, 0, time.Hour)
	m := &d.MQTT
	oneOf(f, "devices.mqtt.mode", m.Mode, MQTTInternal, MQTTExternal, MQTTOff)
	switch m.Mode {
	case MQTTInternal:
		f.hostPort("devices.mqtt.bindAddress", m.BindAddress)
		m.TLS.validate(f, "devices.mqtt.tls")
	case MQTTExternal:
		if m.Server.URL == "" {
			f.add("devices.mqtt.server.url", "tcp://host:port or ssl://host:port, since devices.mqtt.mode is external", m.Server.URL)
		}
		for name, path := range map[string]string{"passwordFile": m.Server.PasswordFile, "caFile": m.Server.CAFile, "certFile": m.Server.CertFile, "keyFile": m.Server.KeyFile} {
			f.optionalPath("devices.mqtt.server."+name, path)
		}
	}
	d.validateUsers(f)
	if d.HTTP.BindAddress != "" {
		f.loopback("devices.http.bindAddress", d.HTTP.BindAddress)
	}
	f.duration("devices.http.timeout", d.HTTP.Timeout, 5*time.Second, 5*time.Minute)
	d.HTTP.TLS.validate(f, "devices.http.tls")
}

func (t *MQTTTLS) validate(f *faults, path string) {
	if t.BindAddress != "" {
		f.hostPort(path+".bindAddress", t.BindAddress)
		f.path(path+".certFile", t.CertFile)
		f.path(path+".keyFile", t.KeyFile)
	}
}
