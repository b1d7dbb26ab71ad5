package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestVerbsSayWhatToDoWhereNothingRuns(t *testing.T) {
	p := &place{root: t.TempDir(), state: t.TempDir()}
	for name, verb := range map[string]func(context.Context, *place, io.Writer) error{"status": status, "cut": cut, "heal": heal} {
		if err := verb(t.Context(), p, io.Discard); err == nil || !strings.Contains(err.Error(), "make quickstart") {
			t.Errorf("%s: expected an error that says how to start the system, found %v", name, err)
		}
	}
	var out strings.Builder
	if err := down(t.Context(), p, &out); err != nil || !strings.Contains(out.String(), "nothing to take down") {
		t.Errorf("expected down to find nothing and to be content, found %q, %v", out.String(), err)
	}
}

func TestOnlyOneQuickstartWorksInADirectory(t *testing.T) {
	p := &place{root: t.TempDir(), state: t.TempDir()}
	unlock, err := p.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := down(t.Context(), p, io.Discard); err == nil || !strings.Contains(err.Error(), "another quickstart") {
		t.Errorf("expected a second one to be refused, found %v", err)
	}
	unlock()
	if err := down(t.Context(), p, io.Discard); err != nil {
		t.Errorf("expected the next one to be let in, found %v", err)
	}
}

func TestStepsStopAtTheFirstFailureAndNameIt(t *testing.T) {
	var out strings.Builder
	broken := errors.New("expected a, found b: do c")
	err := follow(t.Context(), &screen{out: &out}, []step{
		{"first", func(context.Context) (string, error) { return "well", nil }},
		{"second", func(context.Context) (string, error) { return "", broken }},
		{"third", func(context.Context) (string, error) { t.Error("the third step ran"); return "", nil }},
	})
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "second: ") {
		t.Errorf("expected the second step's error with its name, found %v", err)
	}
	for _, words := range []string{"[1/3] first", "well (", "[2/3] second", "FAILED after"} {
		if !strings.Contains(out.String(), words) {
			t.Errorf("expected the progress to say %q, found:\n%s", words, out.String())
		}
	}
}

func TestAWaitInVainTellsTheLastAnswerAndNotItsOwnEnd(t *testing.T) {
	asked := 0
	_, err := wait(t.Context(), 200*time.Millisecond, "a door that opens", func(ctx context.Context) error {
		if asked++; asked > 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return errors.New("it is locked")
	})
	if err == nil || !strings.Contains(err.Error(), "a door that opens") || !strings.Contains(err.Error(), "it is locked") {
		t.Errorf("expected what was waited for and the last answer, found %v", err)
	}
}

func TestThingsDoneAtOnceEndTogetherAtTheFirstFailure(t *testing.T) {
	broken := errors.New("broken")
	err := atOnce(t.Context(), &screen{out: io.Discard}, []step{
		{"one", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }},
		{"other", func(context.Context) (string, error) { return "", broken }},
	})
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "other: ") {
		t.Errorf("expected the error of the thing that failed, with its name, found %v", err)
	}
}

func TestExitCodesAreHonest(t *testing.T) {
	cases := []struct {
		err         error
		interrupted bool
		code        int
		words       string
	}{
		{nil, false, 0, ""},
		{nil, true, 0, ""},
		{errUsage, false, 2, "usage:"},
		{context.Canceled, true, 130, "interrupted"},
		{errors.New("broken"), false, 1, "broken"},
	}
	for _, c := range cases {
		code, words := verdict(c.err, c.interrupted)
		if code != c.code || !strings.Contains(words, c.words) {
			t.Errorf("%v, interrupted %t: expected %d and %q, found %d and %q", c.err, c.interrupted, c.code, c.words, code, words)
		}
	}
	if err := run(t.Context(), []string{"up", "down"}, io.Discard); !errors.Is(err, errUsage) {
		t.Errorf("expected two verbs to be refused, found %v", err)
	}
}
