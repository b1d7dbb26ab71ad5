package kubelet

import (
	"strings"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

func validConfig() Config {
	return Config{NodeName: "gate-7", RootDir: "/data/kubelet", StateDir: "/data/state", RuntimeEndpoint: "unix:///run/c.sock"}.withDefaults()
}

func TestKubeletServesLoopbackWithCertificatesOnly(t *testing.T) {
	cfg := validConfig()
	cfg.ClientCAFile = "/data/ca.crt"
	s, err := stockOptions(cfg, Host{SysResource: true}, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"address":             s.Address == "127.0.0.1",
		"no read-only port":   s.ReadOnlyPort == 0,
		"no healthz port":     s.HealthzPort == 0,
		"no anonymous":        !s.Authentication.Anonymous.Enabled,
		"no webhook":          !s.Authentication.Webhook.Enabled,
		"client CA":           s.Authentication.X509.ClientCAFile == "/data/ca.crt",
		"always allow":        s.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeAlwaysAllow,
		"no client rotation":  !s.RotateCertificates,
		"no server bootstrap": !s.ServerTLSBootstrap,
	} {
		if !ok {
			t.Errorf("not kept: %s", name)
		}
	}
}

func TestNodeIsRegisteredAsAnEdgeNode(t *testing.T) {
	cfg := validConfig()
	cfg.NodeLabels = map[string]string{"site": "mill"}
	s, err := stockOptions(cfg, Host{SysResource: true}, CgroupDriverSystemd)
	if err != nil {
		t.Fatal(err)
	}
	_, excluded := s.NodeLabels["node.kubernetes.io/exclude-from-external-load-balancers"]
	if s.ProviderID != "tether://gate-7" || s.HostnameOverride != "gate-7" || !excluded || s.NodeLabels["site"] != "mill" {
		t.Errorf("providerID %q, hostname %q, labels %v", s.ProviderID, s.HostnameOverride, s.NodeLabels)
	}
	if s.CgroupDriver != CgroupDriverSystemd || s.FailCgroupV1 || s.FailSwapOn || s.EvictionHard["memory.available"] == "" || s.KubeConfig == "" {
		t.Errorf("driver %q, failCgroupV1 %v, failSwapOn %v, evictionHard %v, kubeconfig %q", s.CgroupDriver, s.FailCgroupV1, s.FailSwapOn, s.EvictionHard, s.KubeConfig)
	}
}

func TestAPressureIsShownForAsLongAsConfigured(t *testing.T) {
	cfg := validConfig()
	for given, want := range map[time.Duration]time.Duration{0: 5 * time.Minute, 20 * time.Second: 20 * time.Second} {
		cfg.PressureTransition = given
		s, err := stockOptions(cfg, Host{SysResource: true}, CgroupDriverCgroupfs)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.EvictionPressureTransitionPeriod.Duration; got != want {
			t.Errorf("with %v the kubelet has %v, expected %v", given, got, want)
		}
	}
}

// TestAPullThatHangsHoldsUpNoOther: with an image service that bounds pulls, the kubelet asks for all at once.
func TestAPullThatHangsHoldsUpNoOther(t *testing.T) {
	cfg := validConfig()
	s, err := stockOptions(cfg, Host{SysResource: true}, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	if s.ImageServiceEndpoint != "" || !s.SerializeImagePulls || s.RegistryPullQPS == 0 || s.ImageGCHighThresholdPercent != 85 || s.ImageMinimumGCAge.Duration != 2*time.Minute {
		t.Errorf("the runtime's own service: found %+v, expected stock's settings", s.KubeletConfiguration)
	}
	cfg.ImageServiceEndpoint = "unix:///run/i.sock"
	cfg.ImageGCHigh, cfg.ImageGCLow, cfg.ImageMinAge = 50, 40, time.Second
	if s, err = stockOptions(cfg, Host{SysResource: true}, CgroupDriverCgroupfs); err != nil {
		t.Fatal(err)
	}
	if s.ImageServiceEndpoint != cfg.ImageServiceEndpoint || s.SerializeImagePulls || s.RegistryPullQPS != 0 {
		t.Errorf("a service of its own: endpoint %s, serial %t, %d pulls a second", s.ImageServiceEndpoint, s.SerializeImagePulls, s.RegistryPullQPS)
	}
	if s.ImageGCHighThresholdPercent != 50 || s.ImageGCLowThresholdPercent != 40 || s.ImageMinimumGCAge.Duration != time.Second {
		t.Errorf("unused images go at %d%%, down to %d%%, after %v", s.ImageGCHighThresholdPercent, s.ImageGCLowThresholdPercent, s.ImageMinimumGCAge.Duration)
	}
}

// TestAQuietNodeIsReportedOnceAnHour: what is new in a Node's status is looked for as often as by a stock kubelet, and a time alone is
// not worth the flash.
func TestAQuietNodeIsReportedOnceAnHour(t *testing.T) {
	s, err := stockOptions(validConfig(), Host{SysResource: true}, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	if s.NodeStatusReportFrequency.Duration != time.Hour || s.NodeStatusUpdateFrequency.Duration != 10*time.Second || s.NodeLeaseDurationSeconds != 40 {
		t.Errorf("report every %v, look every %v, Lease of %d s; expected 1h, 10s, 40", s.NodeStatusReportFrequency, s.NodeStatusUpdateFrequency, s.NodeLeaseDurationSeconds)
	}
}

func TestLimitsThatTheHostRefusesAreNotAskedFor(t *testing.T) {
	small := Host{OOMScoreAdj: 7, OpenFilesHard: 20000}
	s, err := stockOptions(validConfig(), small, CgroupDriverCgroupfs)
	if err != nil {
		t.Fatal(err)
	}
	if s.OOMScoreAdj != 7 || s.MaxOpenFiles != 20000 {
		t.Errorf("without CAP_SYS_RESOURCE: oomScoreAdj %d, maxOpenFiles %d; expected the present 7 and 20000", s.OOMScoreAdj, s.MaxOpenFiles)
	}
	small.SysResource = true
	if s, err = stockOptions(validConfig(), small, CgroupDriverCgroupfs); err != nil {
		t.Fatal(err)
	}
	if s.OOMScoreAdj != -999 || s.MaxOpenFiles != 1000000 {
		t.Errorf("with CAP_SYS_RESOURCE: oomScoreAdj %d, maxOpenFiles %d; expected stock's -999 and 1000000", s.OOMScoreAdj, s.MaxOpenFiles)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := New(Config{RootDir: "kubelet", RuntimeEndpoint: "/run/c.sock", CgroupDriver: "cgroups", CgroupRoot: "pods", NodeIP: "10.0.0", ServingCertFile: "c"}, Deps{})
	if err == nil {
		t.Fatal("expected an error, found none")
	}
	for _, want := range []string{"nodeName", "rootDir", "stateDir", "runtimeEndpoint", "cgroupDriver", "cgroupRoot", "nodeIP", "servingCertFile"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
}

func TestLabelThatNodesMayNotSetIsRefusedBeforeTheStart(t *testing.T) {
	cfg := validConfig()
	cfg.NodeLabels = map[string]string{"node-role.kubernetes.io/edge": ""}
	if _, err := stockOptions(cfg, Host{}, CgroupDriverCgroupfs); err == nil || !strings.Contains(err.Error(), "node-role.kubernetes.io/edge") {
		t.Errorf("error %v, expected one that names the label", err)
	}
}
