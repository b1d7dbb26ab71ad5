package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/cri"
)

// Cgroup drivers that Config.CgroupDriver takes. The kubelet always obeys a runtime that names its driver over CRI
// (RuntimeConfig, containerd 2 and CRI-O); these matter for older ones.
const (
	CgroupDriverAuto     = "auto" // the runtime's answer, else its configuration, else systemd where it is pid 1
	CgroupDriverCgroupfs = cri.Cgroupfs
	CgroupDriverSystemd  = cri.Systemd
)

// ExcludeFromLoadBalancersLabel is set on the Node that the kubelet registers: an edge node is no backend for a cloud's
// load balancer. NodeRestriction lets a kubelet set labels of node.kubernetes.io/.
const ExcludeFromLoadBalancersLabel = corev1.LabelNodeExcludeBalancers

// Config says what kind of node this is. Paths are absolute; empty optional fields keep the stock kubelet's default.
type Config struct {
	// NodeName is the name in the edge's certificate.
	NodeName string
	// RootDir holds pods, volumes, plugins and the serving certificate; /var/lib/kubelet on a stock node. The device
	// plugin directory is /var/lib/kubelet/device-plugins whatever this says: upstream fixes that path.
	RootDir string
	// StateDir holds the start mark. It must survive a power cut.
	StateDir string
	// PodLogsDir is /var/log/pods if empty.
	PodLogsDir string
	// StaticPodPath is a directory of pod manifests; none if empty.
	StaticPodPath string
	// VolumePluginDir is where flexvolume plugins are looked for; RootDir/volumeplugins if empty, since the stock
	// default lies under /usr, which many gateways mount read-only.
	VolumePluginDir string

	// RuntimeEndpoint is the runtime's CRI socket, such as unix:///run/containerd/containerd.sock.
	RuntimeEndpoint string
	// ImageServiceEndpoint is the CRI image service's socket; RuntimeEndpoint if empty. A service that is not the runtime's own
	// bounds pulls itself.
	ImageServiceEndpoint string
	// CgroupDriver is auto, cgroupfs or systemd; auto if empty.
	CgroupDriver string
	// CgroupRoot is the cgroup under which all pods live, made if absent; "/" if empty. Two kubelets on one host need
	// one each, since each removes pod cgroups that it does not know.
	CgroupRoot string

	// NodeIP is the address that the Node reports and hostNetwork pods get; the one of the default route if empty.
	NodeIP string
	// Port of the kubelet's own server on 127.0.0.1; 10250 if 0.
	Port int32
	// ServingCertFile and ServingKeyFile are the server's certificate; self-signed in RootDir/pki if both are empty.
	ServingCertFile, ServingKeyFile string
	// ClientCAFile is the CA whose certificates the server accepts, with full rights. Nobody is accepted if empty.
	ClientCAFile string

	MaxPods       int32 // 110 if 0
	NodeLabels    map[string]string
	Taints        []corev1.Taint
	ClusterDNS    []string
	ClusterDomain string
	// EvictionHard is stock's (memory.available<100Mi and so on) if nil.
	EvictionHard map[string]string
	// PressureTransition is for how long the Node shows a pressure after it last was there; stock's 5 minutes if 0.
	PressureTransition time.Duration
	// ImageGCHigh and ImageGCLow are the percentages of the images' file system between which unused images are removed, those
	// that are here for ImageMinAge at least; stock's (85, 80, 2 minutes) if ImageGCHigh is 0.
	ImageGCHigh, ImageGCLow int32
	ImageMinAge             time.Duration
	// FeatureGates of the kubelet; process-wide.
	FeatureGates map[string]bool
	// Verbosity is klog's -v. What it lets through is logged at info.
	Verbosity int
}

// Clock is the time of the waits and the mark; the kubelet itself uses the machine's.
type Clock interface {
	Now() time.Time
	// After returns a channel that receives once, when d has passed.
	After(d time.Duration) <-chan time.Time
}

// Deps is what the composition root passes in.
type Deps struct {
	// RESTConfig reaches the local API, in memory by its Transport or over the network. New takes a copy and sets
	// content types, rate limits and timeouts itself.
	RESTConfig *rest.Config
	Log        *slog.Logger
	// WaitReady blocks until the store holds one completed sync, and returns an error only when ctx ends. Nil if there
	// is nothing to wait for (a kubelet on a real API server).
	WaitReady func(ctx context.Context) error
	// Starting is told the pods that have a sandbox, right before the kubelet is started. Nil if nobody wants to know.
	Starting func(running []types.UID)
	// OnChange, if set, is called after each change of Status, never concurrently. It must not block.
	OnChange func(Status)
	// Killed says that the former process, if there was any, did not end by itself: that is then no failed start of the kubelet.
	Killed bool
	// Clock is the machine's if nil.
	Clock Clock
	// Registerer takes this package's metrics; none if nil. The kubelet's own are on its server's /metrics.
	Registerer prometheus.Registerer
}

// withDefaults fills what may be left empty.
func (c Config) withDefaults() Config {
	if c.CgroupDriver == "" {
		c.CgroupDriver = CgroupDriverAuto
	}
	if c.ImageServiceEndpoint == "" {
		c.ImageServiceEndpoint = c.RuntimeEndpoint
	}
	if c.VolumePluginDir == "" {
		c.VolumePluginDir = filepath.Join(c.RootDir, "volumeplugins")
	}
	if c.Port == 0 {
		c.Port = 10250
	}
	return c
}

// validate lists every fault of a Config with defaults; nil if there is none. What only the kubelet can judge (labels,
// thresholds) it judges when New builds its options.
func (c Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.NodeName == "" {
		fault("nodeName: expected the name in the node's certificate, found none")
	}
	for name, path := range map[string]string{"rootDir": c.RootDir, "stateDir": c.StateDir} {
		if !filepath.IsAbs(path) {
			fault("%s: expected an absolute path, found %q", name, path)
		}
	}
	for name, endpoint := range map[string]string{"runtimeEndpoint": c.RuntimeEndpoint, "imageServiceEndpoint": c.ImageServiceEndpoint} {
		if _, err := socketPath(endpoint); err != nil {
			fault("%s: %w", name, err)
		}
	}
	switch c.CgroupDriver {
	case CgroupDriverAuto, CgroupDriverCgroupfs, CgroupDriverSystemd:
	default:
		fault("cgroupDriver: expected auto, cgroupfs or systemd, found %q", c.CgroupDriver)
	}
	if c.CgroupRoot != "" && !strings.HasPrefix(c.CgroupRoot, "/") {
		fault("cgroupRoot: expected a path that begins with /, found %q", c.CgroupRoot)
	}
	if c.NodeIP != "" && net.ParseIP(c.NodeIP) == nil {
		fault("nodeIP: expected an IP address, found %q", c.NodeIP)
	}
	if (c.ServingCertFile == "") != (c.ServingKeyFile == "") {
		fault("servingCertFile and servingKeyFile: expected both or neither, found %q and %q", c.ServingCertFile, c.ServingKeyFile)
	}
	return errors.Join(errs...)
}

// socketPath returns the path of a unix:// endpoint.
func socketPath(endpoint string) (string, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return "", fmt.Errorf("expected unix:// and an absolute path, found %q", endpoint)
	}
	return path, nil
}
