package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

const (
	// attemptLife is how long one attempt may take: TCP and TLS need about four round trips, and a satellite link
	// with heavy loss takes its time for each.
	attemptLife = 30 * time.Second
	// Between two attempts pass attemptMin to attemptMax, at random, so that the edges of a site do not come together.
	attemptMin, attemptMax = 500 * time.Millisecond, 3 * time.Second
	// quickAttempts is how many first attempts follow each other three times as fast: most servers that are gone are back,
	// or are replaced, within two seconds.
	quickAttempts = 5
	// maxAttempts bounds those under way.
	maxAttempts = 16
)

type attempt struct {
	stream transport.Stream
	server string
	err    error
}

// connect dials the servers in turn. While attempts end by time or because the network says no, new ones start
// without older ones being given up, and the first to finish wins. It returns the error of an attempt that was refused,
// since that will not change at once, and else only when ctx is done.
func (l *Link) connect(ctx context.Context) (transport.Stream, string, error) {
	actx, cancel := context.WithCancel(ctx)
	results := make(chan attempt)
	open := 0
	next := 0
	begin := func() {
		server := l.cfg.Servers[next%len(l.cfg.Servers)]
		next++
		open++
		l.metrics.attempts.Inc()
		go func() {
			dctx, stop := context.WithTimeout(actx, attemptLife)
			defer stop()
			stream, err := l.deps.Dial(dctx, server)
			results <- attempt{stream, server, err}
		}()
	}
	// Attempts that lose are ended, and waited for so that none is left behind.
	defer func() {
		cancel()
		for ; open > 0; open-- {
			if a := <-results; a.stream != nil {
				_ = a.stream.Close()
			}
		}
	}()
	begin()
	timer := time.NewTimer(between(next))
	defer timer.Stop()
	for {
		select {
		case a := <-results:
			open--
			if a.err == nil {
				return a.stream, a.server, nil
			}
			if errors.Is(a.err, transport.ErrRefused) && open == 0 {
				return nil, a.server, a.err
			}
			l.note(a.err)
		case <-timer.C:
			if open < maxAttempts {
				begin()
			}
			timer.Reset(between(next))
		case <-ctx.Done():
			return nil, "", fmt.Errorf("connect: %w", ctx.Err())
		}
	}
}

// between is the pause after the nth attempt.
func between(n int) time.Duration {
	d := attemptMin + time.Duration(rand.Int64N(int64(attemptMax-attemptMin)))
	if n <= quickAttempts {
		d /= 3
	}
	return d
}

// note keeps the latest reason for people who ask.
func (l *Link) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Problem != err.Error() {
		l.status.Problem = err.Error()
		l.deps.Log.Info("no link yet", "error", err)
	}
}
