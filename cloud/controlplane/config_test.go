package controlplane

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestDefaultsNeedOnlyADataDirectory(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("expected the missing data directory as the only fault, got: %v", err)
	}
	cfg.DataDir = "x"
	if err := cfg.Validate(); err != nil {
		t.Fatalf("defaults are refused: %v", err)
	}
}

func TestValidateListsEveryFaultAtOnce(t *testing.T) {
	cfg := Config{
		BindAddress:           "localhost",
		ExtraAddresses:        []string{"10.200.0"},
		SecurePort:            70000,
		EtcdPort:              2379,
		EtcdPeerPort:          2379,
		AdvertiseAddress:      "127.0.0.1",
		ExtraSANs:             []string{"-bad-"},
		ServiceClusterIPRange: "10.96.0.0",
		ClusterCIDR:           "pods",
		ComponentArgs:         map[string][]string{"kubelet": {"v=4"}},
	}
	want := []string{
		"--data-dir is not set", "--bind-address", "--extra-address", "--secure-port: expected a port", "--etcd-peer-port: port 2379 is already given to --etcd-port",
		"--advertise-address", "--extra-san", "--service-cluster-ip-range", "--cluster-cidr",
		`--component-arg: expected one of etcd`, `--component-arg kubelet: expected a flag`, "--start-timeout",
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("not listed: %s", w)
		}
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != len(want) {
		t.Errorf("expected %d faults, got %d:\n%v", len(want), got, err)
	}
}

func TestServiceRangeMustFitKubernetes(t *testing.T) {
	for cidr, ok := range map[string]bool{"10.96.0.0/12": true, "10.0.0.0/8": false, "10.96.0.0/30": false, "fd00::/108": false} {
		cfg := DefaultConfig()
		cfg.DataDir, cfg.ServiceClusterIPRange = "x", cidr
		if err := cfg.Validate(); (err == nil) != ok {
			t.Errorf("%s: accepted is %v, expected %v (%v)", cidr, err == nil, ok, err)
		}
	}
}

func TestFlagsSetTheirFields(t *testing.T) {
	cfg, fs := DefaultConfig(), pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	err := fs.Parse([]string{"--data-dir=d", "--extra-address=10.200.0.1", "--secure-port=7443",
		"--component-arg=kube-apiserver=--v=4", "--component-arg=kube-apiserver=--a=b=c"})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.ComponentArgs["kube-apiserver"]; len(got) != 2 || got[0] != "--v=4" || got[1] != "--a=b=c" {
		t.Errorf("component arguments: %q", got)
	}
	if cfg.DataDir != "d" || cfg.ExtraAddresses[0] != "10.200.0.1" || cfg.SecurePort != 7443 {
		t.Errorf("fields not set: %+v", cfg)
	}
}

func TestLoopbackIsAlwaysServedAndNeverAdvertised(t *testing.T) {
	for _, tc := range []struct {
		bind, extra, advertise     string
		wantServed, wantAdvertised string
	}{
		{bind: "127.0.0.1", wantServed: "127.0.0.1"},
		{bind: "127.0.0.1", extra: "10.200.0.1", wantServed: "127.0.0.1 10.200.0.1", wantAdvertised: "10.200.0.1"},
		{bind: "192.0.2.1", wantServed: "127.0.0.1 192.0.2.1", wantAdvertised: "192.0.2.1"},
		{bind: "192.0.2.1", extra: "127.0.0.2", wantServed: "127.0.0.1 192.0.2.1 127.0.0.2", wantAdvertised: "192.0.2.1"},
		{bind: "0.0.0.0", extra: "10.200.0.1", wantServed: "0.0.0.0", wantAdvertised: "10.200.0.1"},
		{bind: "127.0.0.1", extra: "10.200.0.1", advertise: "203.0.113.9", wantServed: "127.0.0.1 10.200.0.1", wantAdvertised: "203.0.113.9"},
	} {
		cfg := DefaultConfig()
		cfg.BindAddress, cfg.AdvertiseAddress = tc.bind, tc.advertise
		if tc.extra != "" {
			cfg.ExtraAddresses = []string{tc.extra}
		}
		if got := strings.Join(cfg.serveAddresses(), " "); got != tc.wantServed {
			t.Errorf("%+v: serves %s", tc, got)
		}
		if got := cfg.advertised(); got != tc.wantAdvertised {
			t.Errorf("%+v: advertises %q", tc, got)
		}
	}
}

// What is given for an order takes the place of ours: the flag adds to a list, so that a second one would come last.
func TestTheOrderOfAddressesCanBeGiven(t *testing.T) {
	for given, want := range map[string]string{"": "InternalIP,ExternalIP,Hostname", "Hostname,InternalIP": "Hostname,InternalIP"} {
		cp := &ControlPlane{cfg: Config{BindAddress: "127.0.0.1"}, pki: &pki{}}
		if given != "" {
			cp.cfg.ComponentArgs = map[string][]string{nameAPIServer: {addressTypes + given}}
		}
		var got []string
		for _, f := range cp.componentFlags(nameAPIServer) {
			if value, ok := strings.CutPrefix(f, addressTypes); ok {
				got = append(got, value)
			}
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("given %q: %q, expected %q alone", given, got, want)
		}
	}
}
