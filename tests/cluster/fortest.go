package cluster

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/tether-edge/tether/tests/host"
)

// ForTest makes a cluster that ends with the test, installs what the machine lacks, and first removes what a killed run
// of the same package left. If the test fails, the ends of all logs are shown.
func ForTest(t testing.TB) *Cluster {
	t.Helper()
	ctx := context.Background()
	machine, err := host.Detect("/")
	if err != nil {
		t.Fatal(err)
	}
	if machine, err = host.Install(ctx, machine, t.Output(), t.Output()); err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: its path may be too long for a socket, and a killed run must be found again.
	base := filepath.Join(os.TempDir(), "tether-tests")
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if err := Sweep(ctx, base, Config{Host: machine, Log: log}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "c")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Dir: dir, Host: machine, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range c.Processes() {
				t.Logf("the end of the log of %s:\n%s", p.Name(), p.LogTail(30))
			}
		}
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}
