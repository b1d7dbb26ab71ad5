package device

import (
	"time"

	"golang.org/x/time/rate"
)

// rates are the token buckets that all devices share.
type rates struct {
	cfg Config
	// all is for every write; judged, before it, for those without a report.
	all, judged *rate.Limiter
}

func newRates(cfg Config) *rates {
	return &rates{cfg,
		rate.NewLimiter(rate.Limit(cfg.ClusterRate), cfg.ClusterBurst),
		rate.NewLimiter(rate.Limit(cfg.ClusterRate/2), max(1, cfg.ClusterBurst/2))}
}

// A turn is a device's way to its next write: through its own bucket, that of judgements if it has no report, and that of
// all. It holds one place in a bucket at a time, so a device that floods takes no more than one that does not, and nobody
// is blocked while it waits. One goroutine at a time may use it.
type turn struct {
	own  *rate.Limiter
	step step
	due  time.Time // when the step before is passed
	// judging: that is the step of judgements.
	judging bool
}

type step int

const (
	atOwn step = iota
	atJudged
	atAll
	passed
)

// wait returns how long until the device may write; at zero or less it may now, and calls end once it has written.
func (t *turn) wait(r *rates, hasReport bool) time.Duration {
	if t.own == nil {
		t.own = rate.NewLimiter(rate.Limit(r.cfg.DeviceRate), r.cfg.DeviceBurst)
	}
	now := time.Now()
	for {
		// A report does not wait for what a judgement has to.
		if d := t.due.Sub(now); d > 0 && !(hasReport && t.step == atAll && t.judging) {
			return d
		}
		bucket := t.own
		switch t.step {
		case passed:
			return 0
		case atJudged:
			bucket = r.judged
		case atAll:
			bucket = r.all
		}
		t.judging = t.step == atJudged
		t.step++
		if bucket == r.judged && hasReport {
			continue
		}
		t.due = now.Add(bucket.ReserveN(now, 1).DelayFrom(now))
	}
}

// end gives up a place that was reached: the next write needs another.
func (t *turn) end() {
	if t.step == passed && !t.due.After(time.Now()) {
		t.step = atOwn
	}
}
