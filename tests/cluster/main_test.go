package cluster

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/tether-edge/tether/build/images"
)

// harnessEnv makes the test binary a harness that is to be killed: its value is the directory of the cluster to make.
const harnessEnv = "TETHER_TEST_HARNESS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(harnessEnv); dir != "" {
		if err := runHarness(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runHarness makes a cluster with one running container, says so, and waits to be killed.
func runHarness(ctx context.Context, dir string) error {
	archives, err := Images(ctx)
	if err != nil {
		return err
	}
	c, err := New(Config{Dir: dir})
	if err != nil {
		return err
	}
	h, err := c.NewEdgeHost(ctx, EdgeConfig{Name: "edge", Images: archives})
	if err != nil {
		return err
	}
	cri, err := h.CRI(ctx)
	if err != nil {
		return err
	}
	if _, _, err = cri.RunContainer(ctx, "demo", images.Demo); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}
