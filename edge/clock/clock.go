// Package clock is an edge's idea of the time: the machine's, but never before what is known to be past, and put right by
// the hub where the machine's clock is far off. A gateway without a battery starts in 1970, or in 2090.
//
// It promises that the time never falls below the newest of the program's making, the certificate's issue, the last stored
// time and the last time that a hub told over a session; and that a time that was not signed by a CA that the edge trusts changes nothing.
// The edge's TLS, renewals and link use it through edge/edgecore; the kubelet's clock is the machine's.
package clock

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
)

const (
	// tolerated is how far the machine's clock may be off before it is corrected.
	tolerated = time.Minute
	// storeEvery is how often the time is stored. What was not stored is lost in a power cut, and costs nothing but that.
	storeEvery = 10 * time.Minute
	// askEvery is the least time between two questions for the time.
	askEvery = 30 * time.Second
)

// Deps are what a Clock works with.
type Deps struct {
	// System is the machine's clock.
	System func() time.Time
	// File holds the last stored time.
	File string
	// Roots reads the CAs that may sign a time.
	Roots func() ([]*x509.Certificate, error)
	// Proxy is what questions go through; see join.Client.
	Proxy func(*http.Request) (*url.URL, error)
	// Moved, if set, is told by how much the time is put right, so that what was reckoned by the wrong time can be, too:
	// before a move forward and after one back, so that nothing falls due by the move itself.
	Moved    func(by time.Duration)
	Log      *slog.Logger
	Registry prometheus.Registerer
}

// A Clock tells the time. It is safe for concurrent use.
type Clock struct {
	deps Deps

	hearing sync.Mutex // one time is taken after the other

	mu sync.Mutex // guards all below
	// offset is what the machine's clock is off.
	offset time.Duration
	// floor is a time that is past, since the machine's clock said since.
	floor, since time.Time
	stored       time.Time
	asked        time.Time
	// heard: a hub told the time since the start. Before that the machine's clock may say anything.
	heard bool
}

// New returns a Clock that knows that the given times are past.
func New(deps Deps, past ...time.Time) *Clock {
	c := &Clock{deps: deps, since: deps.System()}
	if b, err := os.ReadFile(deps.File); err == nil {
		if t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(b))); err == nil {
			past, c.stored = append(past, t), t
		}
	}
	for _, t := range past {
		if t.After(c.floor) {
			c.floor = t
		}
	}
	deps.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tether_edgecore_clock_offset_seconds",
		Help: "How far this machine's clock is corrected, in seconds."}, func() float64 { return c.Now().Sub(deps.System()).Seconds() }))
	if now := c.Now(); now.Sub(deps.System()) > tolerated {
		deps.Log.Warn("this machine's clock is behind what is known to be past: going on from there", "clock", deps.System(), "time", now)
	}
	return c
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	system := c.deps.System()
	// Between two readings of the machine's clock Go counts, whatever was done to the clock.
	if least := c.floor.Add(max(0, system.Sub(c.since))); system.Add(c.offset).Before(least) {
		return least
	}
	return system.Add(c.offset)
}

// Heard takes a time that a trusted hub told.
func (c *Clock) Heard(hub time.Time) {
	c.hearing.Lock()
	defer c.hearing.Unlock()
	system := c.deps.System()
	offset := hub.Sub(system)
	if offset.Abs() <= tolerated {
		offset = 0
	}
	by := system.Add(offset).Sub(c.Now())
	if by > tolerated && c.deps.Moved != nil {
		c.deps.Moved(by)
	}
	c.set(hub, system, offset)
	if by < -tolerated && c.deps.Moved != nil {
		c.deps.Moved(by)
	}
}

func (c *Clock) set(hub, system time.Time, offset time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (offset - c.offset).Abs() > tolerated {
		c.deps.Log.Warn("this machine's clock is off: corrected for the link, not for pods", "clock", system, "hub", hub)
	}
	c.offset, c.floor, c.since, c.heard = offset, hub, system, true
	c.store(hub)
}

// store keeps the time, if another one is kept.
func (c *Clock) store(t time.Time) {
	if t.Sub(c.stored).Abs() < storeEvery {
		return
	}
	if err := pki.WriteFile(c.deps.File, []byte(t.UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		c.deps.Log.Warn("cannot store the time", "error", err)
		return
	}
	c.stored = t
}

// Start stores the time now and then until ctx is done.
func (c *Clock) Start(ctx context.Context) error {
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.mu.Lock()
			if c.heard {
				c.store(c.now())
			}
			c.mu.Unlock()
		}
	}
}

// Ask asks the join ports at servers for the time, and takes one that a trusted CA signed, without judging any date. It
// asks nobody if it did so lately.
func (c *Clock) Ask(ctx context.Context, servers []string) error {
	c.mu.Lock()
	system := c.deps.System()
	if !c.asked.IsZero() && system.Sub(c.asked) < askEvery {
		c.mu.Unlock()
		return nil
	}
	c.asked = system
	c.mu.Unlock()
	roots, err := c.deps.Roots()
	if err != nil {
		return fmt.Errorf("ask for the time: %w", err)
	}
	var failed error
	for _, server := range servers {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // it never fails
		begun := time.Now()
		t, err := (&join.Client{Server: server, Proxy: c.deps.Proxy}).Time(ctx, hex.EncodeToString(b), roots)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		c.Heard(t.Add(time.Since(begun) / 2))
		return nil
	}
	return fmt.Errorf("ask for the time: %w", failed)
}
