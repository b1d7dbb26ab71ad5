// Command shiftededge is edgecore with a clock that the chaos suite can set: it adds what the file named by CHAOS_CLOCK says, as Go
// writes durations, to the machine's time. The kubelet in it has the machine's clock, which no process of its own can have
// otherwise.
package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/supervise"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/edge/edgecore"
)

func main() {
	os.Exit(run.Program{Name: "edgecore", Version: version.String("edgecore"), Load: load}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

func load(path string) (level, format string, start func(context.Context, *slog.Logger) error, err error) {
	cfg, err := v1alpha1.LoadEdgeCore(path)
	if err != nil {
		return "", "", nil, err
	}
	return cfg.Log.Level, cfg.Log.Format, func(ctx context.Context, log *slog.Logger) error {
		clock := &shifted{file: os.Getenv("CHAOS_CLOCK")}
		c, err := edgecore.New(ctx, cfg, edgecore.Deps{Log: log, Built: version.Committed(), Now: clock.now, Killed: supervise.FormerWasKilled()})
		if err != nil {
			return err
		}
		return c.Start(ctx)
	}, nil
}

// lookEvery is how often the file is read.
const lookEvery = 100 * time.Millisecond

// shifted is the machine's clock, and an offset.
type shifted struct {
	file string

	mu     sync.Mutex
	looked time.Time
	offset time.Duration
}

func (c *shifted) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.looked) > lookEvery {
		c.looked, c.offset = now, 0
		if b, err := os.ReadFile(c.file); err == nil {
			// What is no duration is no offset: the file is the suite's own, and may be being written.
			c.offset, _ = time.ParseDuration(strings.TrimSpace(string(b)))
		}
	}
	if c.offset == 0 {
		return now
	}
	return now.Add(c.offset).Round(0) // a clock that was set tells nothing by the monotonic one
}
