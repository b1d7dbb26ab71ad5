package run

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// part is a component that notes what happens to it. Its fields are set before it starts.
type part struct {
	name    string
	notes   chan<- string
	fail    <-chan error // what Start returns when it gets a value
	onStop  error
	stopFor time.Duration
}

func (p *part) Start(ctx context.Context) error {
	p.notes <- "start " + p.name
	select {
	case err := <-p.fail:
		return err
	case <-ctx.Done():
	}
	time.Sleep(p.stopFor)
	p.notes <- "stop " + p.name
	return p.onStop
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func drain(notes chan string) []string {
	close(notes)
	return slices.Collect(func(yield func(string) bool) {
		for n := range notes {
			if !yield(n) {
				return
			}
		}
	})
}

func TestStopsInReverseAndWaitsForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notes := make(chan string, 10)
		g := New(quiet())
		for _, n := range []string{"a", "b", "c"} {
			g.Add(n, &part{name: n, notes: notes, stopFor: time.Minute})
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- g.Start(ctx) }()
		synctest.Wait()
		cancel()
		begun := time.Now()
		if err := <-result; err != nil {
			t.Errorf("clean stop returned %v", err)
		}
		if took := time.Since(begun); took != 3*time.Minute {
			t.Errorf("stopping three components of a minute each took %v; they must stop one after the other", took)
		}
		if got := drain(notes)[3:]; !slices.Equal(got, []string{"stop c", "stop b", "stop a"}) {
			t.Errorf("stopped as %q", got)
		}
	})
}

func TestFirstErrorEndsAllAndCarriesTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notes := make(chan string, 10)
		fail, boom := make(chan error, 1), errors.New("disk on fire")
		g := New(quiet())
		g.Add("a", &part{name: "a", notes: notes})
		g.Add("b", &part{name: "b", notes: notes, fail: fail})
		g.Add("c", &part{name: "c", notes: notes, onStop: context.Canceled})
		fail <- boom
		err := g.Start(t.Context())
		if !errors.Is(err, boom) || err.Error() != "b: disk on fire" {
			t.Errorf("Start = %v, expected b: disk on fire", err)
		}
		if got := drain(notes); !slices.Contains(got, "stop a") || !slices.Contains(got, "stop c") {
			t.Errorf("others were not stopped: %q", got)
		}
	})
}

func TestSilentEndIsAFailure(t *testing.T) {
	g := New(quiet())
	g.Add("link", Func(func(context.Context) error { return nil }))
	if err := g.Start(t.Context()); !errors.Is(err, ErrEnded) || !strings.HasPrefix(err.Error(), "link: ") {
		t.Errorf("Start = %v, expected link: %v", err, ErrEnded)
	}
}

func TestFailuresWhileStoppingAreReturnedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, lost := New(quiet()), errors.New("flush failed")
		g.Add("store", &part{name: "store", notes: make(chan string, 2), onStop: lost})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Start(ctx); !errors.Is(err, lost) {
			t.Errorf("Start = %v, expected it to hold %v", err, lost)
		}
	})
}

func TestSlowStopIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, err := Logger(&out, "info", "text")
		if err != nil {
			t.Fatal(err)
		}
		g := New(log)
		g.Add("kubelet", &part{name: "kubelet", notes: make(chan string, 2), stopFor: 25 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Start(ctx); err != nil {
			t.Error(err)
		}
		if n := strings.Count(out.String(), "component=kubelet waited="); n != 2 {
			t.Errorf("a stop of 25 s was named %d times, expected 2:\n%s", n, out.String())
		}
	})
}

func TestSignalEndsTheContext(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		ctx, stop := Signals(t.Context())
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !strings.Contains(cause.Error(), sig.String()) {
				t.Errorf("cause = %v, expected it to name %v", cause, sig)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%v did not end the context within 10 s", sig)
		}
		stop()
	}
}

func TestLoggerRefusesUnknownSettings(t *testing.T) {
	for _, c := range []struct{ level, format, want string }{
		{"loud", "text", "expected debug, info, warn or error"},
		{"info", "xml", "expected text or json"},
	} {
		if _, err := Logger(&bytes.Buffer{}, c.level, c.format); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Logger(%q, %q) = %v, expected %q", c.level, c.format, err, c.want)
		}
	}
	var out bytes.Buffer
	log, err := Logger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown", "key", 1)
	if s := out.String(); strings.Contains(s, "hidden") || !strings.Contains(s, `"msg":"shown","key":1`) {
		t.Errorf("logged %q", s)
	}
}
