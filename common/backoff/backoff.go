// Package backoff spaces out retries: exponential growth to a ceiling, with full jitter.
//
// Full jitter (a delay drawn evenly from zero to the current ceiling) spreads clients that failed together best for
// the least total work: see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. It promises delays in
// [0, Max) and no wait that outlives its context. The edge's link, the outbox, CloudCore's upstream writes and the
// supervisor use it.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Clock is the part of time that Wait needs, so that tests can set it.
type Clock interface {
	// After returns a channel that receives once, when d has passed.
	After(d time.Duration) <-chan time.Time
}

// System is the machine's clock.
type System struct{}

// After is time.After.
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Config sets the growth of a Backoff.
type Config struct {
	// Base is the ceiling of the first delay. It must be positive.
	Base time.Duration
	// Max is the ceiling that no delay reaches beyond. It must be at least Base.
	Max time.Duration
	// Clock is used by Wait; System if nil.
	Clock Clock
	// Int64N returns an even draw from [0, n) for n > 0; math/rand/v2's if nil. Tests pass a seeded one.
	Int64N func(n int64) int64
}

// A Backoff counts consecutive failures of one thing. It belongs to one goroutine.
type Backoff struct {
	cfg     Config
	ceiling time.Duration // of the next delay; in [Base, Max]
	tries   int
}

// New returns a Backoff with no failure counted. A Base of less than 1 ns counts as 1 ns, a Max below Base as Base.
func New(cfg Config) *Backoff {
	cfg.Base = max(cfg.Base, 1)
	cfg.Max = max(cfg.Max, cfg.Base)
	if cfg.Clock == nil {
		cfg.Clock = System{}
	}
	if cfg.Int64N == nil {
		cfg.Int64N = rand.Int64N
	}
	return &Backoff{cfg: cfg, ceiling: cfg.Base}
}

// Next counts a failure and returns how long to wait before the next try: a draw from [0, ceiling), where the ceiling
// is Base for the first failure and doubles with each further one up to Max.
func (b *Backoff) Next() time.Duration {
	d := time.Duration(b.cfg.Int64N(int64(b.ceiling)))
	b.tries++
	if b.ceiling > b.cfg.Max/2 { // also guards the doubling against overflow
		b.ceiling = b.cfg.Max
	} else {
		b.ceiling *= 2
	}
	return d
}

// Wait counts a failure and waits for Next's delay. It returns ctx's error if ctx ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.cfg.Clock.After(b.Next()):
		return ctx.Err()
	}
}

// Tries returns the failures counted since the start or the last Reset.
func (b *Backoff) Tries() int { return b.tries }

// Reset forgets all failures. Call it after a success that lasted: a peer that accepts and closes at once is failing.
func (b *Backoff) Reset() { b.ceiling, b.tries = b.cfg.Base, 0 }
