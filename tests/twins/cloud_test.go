package twins

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/cloudcore"
)

// cloud is a CloudCore that can be ended and started anew, with cold caches.
type cloud struct {
	t    *testing.T
	cfg  v1alpha1.CloudCore
	log  *slog.Logger
	stop func() // nil while it is down
}

func (c *cloud) hub() string {
	return net.JoinHostPort(c.cfg.Hub.BindAddress, strconv.Itoa(c.cfg.Hub.WebSocketPort))
}

func (c *cloud) start() {
	cfg := c.cfg
	core, err := cloudcore.New(&cfg, cloudcore.Deps{Log: c.log})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- core.Start(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("CloudCore ended: %v", err)
		}
	})
}

func (c *cloud) end() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// ready waits until it lets edges in.
func (c *cloud) ready() {
	c.t.Helper()
	eventually(c.t, "CloudCore lets edges in", time.Minute, func() error {
		resp, err := http.Get("http://" + c.cfg.Metrics.BindAddress + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", resp.Status)
		}
		return nil
	})
}

// eventually waits until ask returns nil.
func eventually(t *testing.T, what string, within time.Duration, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
	}
}
