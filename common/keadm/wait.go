package keadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"
)

var (
	errTimeout     = errors.New("timed out")
	errInterrupted = errors.New("interrupted")
)

// An answer is what a wait heard.
type answer struct {
	ok bool
	// missing is what the wait is for, empty if this answer tells nothing of that.
	missing string
	// failed ends the wait: there is nothing to wait for any more.
	failed error
	// retryAfter is how long not to ask again, where the other side wants that.
	retryAfter time.Duration
}

// How often to ask: what is on this machine or has no limits, and the join port, which takes two requests a second from
// all machines behind one address.
const (
	often  = 100 * time.Millisecond
	seldom = time.Second
)

// heartbeat is after how long a wait in which nothing changes says so.
const heartbeat = 15 * time.Second

// ephemeral is our own end of a connection, another one at each try.
var ephemeral = regexp.MustCompile(`\S+->`)

// waitFor asks about every so often until the answer is yes; what is like "x to be ready". It says once each thing that it waits for, that it still
// does, and at last what was missing. The error matches errTimeout or errInterrupted, or is that of an answer that failed.
func waitFor(parent context.Context, w IO, limit, every time.Duration, what string, ask func(context.Context) answer) error {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	start := time.Now()
	told, last, spoke := map[string]bool{}, "", start
	for {
		a := ask(ctx)
		if a.ok {
			subject, became, _ := strings.Cut(what, " to be ")
			fmt.Fprintf(w.Out, "%-8s after %.1f s: %s\n", cmp.Or(became, "done"), time.Since(start).Seconds(), subject)
			return nil
		}
		if a.failed != nil {
			return fmt.Errorf("waited %.1f s for %s: %w", time.Since(start).Seconds(), what, a.failed)
		}
		// What is said of a request that the end cut off is not what was missing.
		if ctx.Err() == nil && a.missing != "" {
			last = ephemeral.ReplaceAllString(a.missing, "")
			if !told[last] {
				told[last], spoke = true, time.Now()
				fmt.Fprintf(w.Err, "waiting for %s: %s\n", what, last)
			}
		}
		if ctx.Err() == nil && time.Since(spoke) >= heartbeat {
			spoke = time.Now()
			fmt.Fprintf(w.Err, "still waiting after %d s: %s\n", int(time.Since(start).Seconds()), last)
		}
		// Machines that were switched on together do not ask together for long.
		pause := max(every, a.retryAfter)
		pause += time.Duration(rand.Int64N(int64(every)/5 + 1))
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return fmt.Errorf("%w after %.1f s of waiting for %s: %s", errInterrupted, time.Since(start).Seconds(), what, last)
			}
			return fmt.Errorf("waited %s for %s: %w: %s", limit, what, errTimeout, last)
		case <-time.After(pause):
		}
	}
}
