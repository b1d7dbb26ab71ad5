package backoff

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// highest draws the largest value that a delay may have, which shows the ceiling.
func highest(n int64) int64 { return n - 1 }

func TestCeilingDoublesToMaxAndResetStartsAgain(t *testing.T) {
	b := New(Config{Base: time.Second, Max: 5 * time.Second, Int64N: highest})
	take := func(n int) (got []time.Duration) {
		for range n {
			got = append(got, b.Next()+1)
		}
		return got
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	if got := take(5); !slices.Equal(got, want) {
		t.Errorf("ceilings %v, expected %v", got, want)
	}
	if b.Tries() != 5 {
		t.Errorf("Tries = %d, expected 5", b.Tries())
	}
	b.Reset()
	if got := take(2); !slices.Equal(got, want[:2]) || b.Tries() != 2 {
		t.Errorf("after Reset: ceilings %v, tries %d; expected %v, 2", got, b.Tries(), want[:2])
	}
}

func TestJitterIsFull(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	b := New(Config{Base: time.Minute, Max: time.Minute, Int64N: r.Int64N})
	var tenths [10]int
	for range 10_000 {
		tenths[b.Next()/(6*time.Second)]++
	}
	for i, n := range tenths {
		if n < 800 || n > 1200 {
			t.Errorf("seed %d: %d of 10,000 delays in tenth %d of the range, expected about 1,000: %v", seed, n, i, tenths)
		}
	}
}

func TestDelaysStayInRangeForAnySettings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Base:   time.Duration(rapid.Int64Range(-1, math.MaxInt64).Draw(t, "base")),
			Max:    time.Duration(rapid.Int64Range(-1, math.MaxInt64).Draw(t, "max")),
			Int64N: highest,
		}
		limit := max(cfg.Base, cfg.Max, 1)
		b := New(cfg)
		for range 70 {
			if d := b.Next(); d < 0 || d >= limit {
				t.Fatalf("delay %d outside [0, %d)", d, limit)
			}
		}
	})
}

func TestWaitLastsAsDrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Base: time.Second, Max: time.Minute, Int64N: highest})
		begun := time.Now()
		for range 3 {
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != 7*time.Second-3 {
			t.Errorf("three waits took %v, expected 6.999999997s", took)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Base: time.Hour, Max: time.Hour, Int64N: highest})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v, expected %v", err, context.DeadlineExceeded)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("Wait took %v, expected 1s", took)
		}
	})
}

// still is a clock that stands until it is told to go on.
type still chan time.Time

func (c still) After(time.Duration) <-chan time.Time { return c }

func TestWaitUsesTheInjectedClock(t *testing.T) {
	clock := make(still, 1)
	clock <- time.Time{}
	b := New(Config{Base: time.Hour, Max: time.Hour, Int64N: highest, Clock: clock})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.Wait(ctx); err != nil {
		t.Errorf("the clock said go, Wait = %v", err)
	}
}
