package controlplane

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// anyPorts is a configuration that disturbs nothing else on the machine.
func anyPorts(dataDir string) Config {
	cfg := DefaultConfig()
	cfg.DataDir = dataDir
	for _, p := range cfg.ports() {
		*p.port = 0
	}
	return cfg
}

func TestBusyPortsAreNamedBeforeAnythingStarts(t *testing.T) {
	busy := func(address string) int {
		l, err := net.Listen("tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l.Addr().(*net.TCPAddr).Port
	}
	dir := filepath.Join(t.TempDir(), "data")
	cfg := anyPorts(dir)
	cfg.ExtraAddresses = []string{"127.0.0.3"}
	cfg.SecurePort, cfg.SchedulerPort = busy("127.0.0.3"), busy("127.0.0.1")

	cp := New(cfg, Deps{Log: testLog(t), Progress: testProgress{t}, Executable: "/does/not/exist"})
	err := cp.Start(t.Context())
	if err == nil {
		t.Fatal("started")
	}
	for _, want := range []string{
		fmt.Sprintf("port %d on 127.0.0.3 is in use by another process", cfg.SecurePort), "--secure-port",
		fmt.Sprintf("port %d on 127.0.0.1 is in use by another process", cfg.SchedulerPort), "--scheduler-port",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if logs, _ := os.ReadDir(filepath.Join(dir, "logs")); len(logs) != 0 {
		t.Errorf("a component was started: %v", logs)
	}
}

func TestAddressOfAnotherMachineIsExplained(t *testing.T) {
	cfg := anyPorts("x")
	cfg.ExtraAddresses = []string{"192.0.2.77"}
	err := claimPorts(t.Context(), &cfg)
	if err == nil || !strings.Contains(err.Error(), "192.0.2.77 is not an address of this machine") {
		t.Errorf("got: %v", err)
	}
}

func TestPortZeroBecomesAFreePortOfItsOwn(t *testing.T) {
	cfg := anyPorts("x")
	if err := claimPorts(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("the chosen ports are refused: %v", err)
	}
	for _, p := range cfg.ports() {
		if *p.port < freePortMin || *p.port > freePortMax {
			t.Errorf("%s: %d is outside the range for free ports", p.flag, *p.port)
		}
	}
}
