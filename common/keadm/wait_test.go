package keadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// waited runs a wait of a minute for x on a clock that only waiting moves.
func waited(ctx context.Context, every time.Duration, ask func(n int) answer) (asked int, said string, err error) {
	var out bytes.Buffer
	err = waitFor(ctx, IO{Out: &out, Err: &out}, time.Minute, every, "x to be ready", func(context.Context) answer {
		asked++
		return ask(asked)
	})
	return asked, out.String(), err
}

func TestAWaitAsksOnceASecondWithSomeJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last time.Time
		gaps := map[time.Duration]bool{}
		asked, _, err := waited(t.Context(), seldom, func(n int) answer {
			if gap := time.Since(last); n > 1 {
				gaps[gap] = true
				if gap < seldom || gap > seldom*6/5 {
					t.Errorf("asked again after %s", gap)
				}
			}
			last = time.Now()
			return answer{missing: "not yet"}
		})
		if !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), "not yet") || asked < 50 || asked > 60 || len(gaps) < 2 {
			t.Errorf("asked %d times, %d different gaps: %v", asked, len(gaps), err)
		}
	})
}

func TestAWaitHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, said, err := waited(t.Context(), seldom, func(n int) answer {
			return answer{ok: n == 2, retryAfter: 20 * time.Second}
		})
		if took := time.Since(start); err != nil || took < 20*time.Second || took > 21*time.Second {
			t.Errorf("asked again after %s, %v\n%s", took, err, said)
		}
	})
}

// Two answers in turn, one of them with another port of ours each time, and being told to wait, are no news.
func TestAWaitSaysEachThingOnceAndThenThatItStillWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, said, err := waited(t.Context(), seldom, func(n int) answer {
			switch n % 3 {
			case 0:
				return answer{missing: "KubeletNotReady"}
			case 1:
				return answer{missing: fmt.Sprintf("read tcp 10.0.0.1:%d->10.0.0.2:10002: reset", 30000+n)}
			}
			return answer{retryAfter: time.Second}
		})
		lines := strings.Split(strings.TrimSpace(said), "\n")
		if err == nil || len(lines) > 6 || !strings.HasPrefix(lines[0], "waiting for x to be ready: read tcp 10.0.0.2:10002: reset") ||
			lines[1] != "waiting for x to be ready: KubeletNotReady" || !strings.HasPrefix(lines[2], "still waiting after 1") {
			t.Errorf("%v\n%s", err, said)
		}
	})
}

func TestAnInterruptedWaitDoesNotSayThatItTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := waited(ctx, often, func(n int) answer {
			if n == 3 {
				cancel()
				return answer{missing: "context canceled"}
			}
			return answer{missing: "not yet"}
		})
		if !errors.Is(err, errInterrupted) || errors.Is(err, errTimeout) || !strings.HasSuffix(err.Error(), ": not yet") {
			t.Errorf("%v", err)
		}
	})
}

func TestAWaitSaysWhatBecameOfWhatItWaitedFor(t *testing.T) {
	for what, want := range map[string]string{"x to be ready": "ready    after 0.0 s: x\n", "the kinds to be served": "served   after 0.0 s: the kinds\n",
		"pods to move": "done     after 0.0 s: pods to move\n"} {
		var out bytes.Buffer
		if err := waitFor(t.Context(), IO{Out: &out, Err: &out}, time.Minute, often, what, func(context.Context) answer { return answer{ok: true} }); err != nil || out.String() != want {
			t.Errorf("%v, said %q, expected %q", err, &out, want)
		}
	}
}
