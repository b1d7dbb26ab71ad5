package kubelet

import (
	"fmt"
	"maps"
	"path/filepath"
	"time"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/eviction"

	"github.com/tether-edge/tether/common/object"
)

// ProviderID is the Node's spec.providerID for a node name. Cloud controllers leave alone what they do not know.
func ProviderID(nodeName string) string { return object.ProviderIDPrefix + nodeName }

const (
	// PodLogsDir is where the kubelet keeps the logs of containers unless Config says otherwise.
	PodLogsDir = "/var/log/pods"
	// LogsOfAContainer is what the logs of a container may take, in bytes, before the oldest go: upstream's defaults, five
	// files of 10 MiB. One that writes fast goes past it for the ten seconds between two looks.
	LogsOfAContainer = 5 * 10 << 20
	// nodeReportEvery is how often the kubelet writes the status of its Node where nothing but the time in it is new, every five
	// minutes by default. What is new is written at once, and the Lease tells that the node lives. A status goes through the
	// database three times, with what the cloud answers.
	nodeReportEvery = time.Hour
)

// inMemoryKubeConfig stands where the kubelet wants the path of a kubeconfig. The file is never read, since all clients
// are given; an empty path would mean a kubelet without an API server.
const inMemoryKubeConfig = "in-memory"

// stockOptions turns cfg into the stock kubelet's flags and configuration. Everything not named here is upstream's
// default. driver is cgroupfs or systemd.
func stockOptions(cfg Config, host Host, driver string) (*options.KubeletServer, error) {
	s, err := options.NewKubeletServer()
	if err != nil {
		return nil, fmt.Errorf("make the kubelet's default configuration: %w", err)
	}
	s.KubeConfig = inMemoryKubeConfig
	s.HostnameOverride = cfg.NodeName
	s.NodeIP = cfg.NodeIP
	s.RootDirectory = cfg.RootDir
	s.CertDirectory = filepath.Join(cfg.RootDir, "pki")
	s.NodeLabels = map[string]string{ExcludeFromLoadBalancersLabel: ""}
	maps.Copy(s.NodeLabels, cfg.NodeLabels)

	kc := &s.KubeletConfiguration
	kc.FeatureGates = maps.Clone(cfg.FeatureGates)
	kc.ProviderID = ProviderID(cfg.NodeName)
	kc.RegisterWithTaints = cfg.Taints
	kc.StaticPodPath = cfg.StaticPodPath
	kc.VolumePluginDir = cfg.VolumePluginDir
	kc.ContainerRuntimeEndpoint = cfg.RuntimeEndpoint
	imagePulls(kc, cfg)
	if cfg.PodLogsDir != "" {
		kc.PodLogsDir = cfg.PodLogsDir
	}
	if cfg.MaxPods != 0 {
		kc.MaxPods = cfg.MaxPods
	}
	kc.NodeStatusReportFrequency.Duration = nodeReportEvery
	kc.ClusterDNS = cfg.ClusterDNS
	kc.ClusterDomain = cfg.ClusterDomain
	kc.EvictionHard = cfg.EvictionHard
	if kc.EvictionHard == nil {
		kc.EvictionHard = eviction.DefaultEvictionHard // the stock kubelet adds it while it reads its file
	}
	if cfg.PressureTransition != 0 {
		kc.EvictionPressureTransitionPeriod.Duration = cfg.PressureTransition
	}
	secureServer(kc, cfg)
	fitHost(kc, cfg, host, driver)

	// New runs this before anything is started, so that a fault of the configuration is an error and not an exit. Gates are
	// process-wide and validation reads them.
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(kc.FeatureGates); err != nil {
		return nil, fmt.Errorf("kubelet feature gates: %w", err)
	}
	if err := options.ValidateKubeletServer(s); err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	return s, nil
}

// imagePulls names the image service and when unused images go. Where the service is not the runtime's own it bounds pulls itself:
// the kubelet must not hold up a pod whose image is here behind a pull from a registry that hangs, nor fail the eleventh
// container of a boot for pulling too often.
func imagePulls(kc *kubeletconfig.KubeletConfiguration, cfg Config) {
	if cfg.ImageServiceEndpoint != cfg.RuntimeEndpoint {
		kc.ImageServiceEndpoint = cfg.ImageServiceEndpoint
		kc.SerializeImagePulls = false
		kc.RegistryPullQPS = 0
	}
	if cfg.ImageGCHigh != 0 {
		kc.ImageGCHighThresholdPercent, kc.ImageGCLowThresholdPercent = cfg.ImageGCHigh, cfg.ImageGCLow
		kc.ImageMinimumGCAge.Duration = cfg.ImageMinAge
	}
}

// secureServer leaves one way in: loopback, with a certificate of the edge's local CA. Whoever has one may do everything;
// rotation is off since identity is the link's.
func secureServer(kc *kubeletconfig.KubeletConfiguration, cfg Config) {
	kc.Address = "127.0.0.1"
	kc.Port = cfg.Port
	kc.ReadOnlyPort = 0
	kc.HealthzPort = 0
	kc.TLSCertFile = cfg.ServingCertFile
	kc.TLSPrivateKeyFile = cfg.ServingKeyFile
	kc.RotateCertificates = false
	kc.ServerTLSBootstrap = false
	kc.Authentication.Anonymous.Enabled = false
	kc.Authentication.Webhook.Enabled = false
	kc.Authentication.X509.ClientCAFile = cfg.ClientCAFile
	kc.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
}

// fitHost adapts to what gateways are: cgroup v1, swap, a container without CAP_SYS_RESOURCE.
func fitHost(kc *kubeletconfig.KubeletConfiguration, cfg Config, host Host, driver string) {
	kc.CgroupDriver = driver
	kc.CgroupRoot = cfg.CgroupRoot
	kc.CgroupsPerQOS = true
	kc.FailCgroupV1 = false
	kc.FailSwapOn = false
	if host.SysResource {
		return
	}
	// Lowering its own OOM score and raising its own limit would fail, the first one again every minute.
	kc.OOMScoreAdj = host.OOMScoreAdj
	if host.OpenFilesHard > 0 && host.OpenFilesHard < uint64(kc.MaxOpenFiles) {
		kc.MaxOpenFiles = int64(host.OpenFilesHard)
	}
}
