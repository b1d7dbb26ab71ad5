package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// screen is where up tells what it does. Several goroutines may write to it.
type screen struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

// indent sets what a step says off from its name.
const indent = "      "

// say prints one or more lines below the name of the step.
func (s *screen) say(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	s.print(indent + strings.ReplaceAll(text, "\n", "\n"+indent) + "\n")
}

// print prints text as it is. A screen that is gone is nobody to tell.
func (s *screen) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, text)
}

// Write is say for programs that write to a stream.
func (s *screen) Write(p []byte) (int, error) {
	s.say("%s", p)
	return len(p), nil
}

// step is one thing that up does. do returns what a person should know about the result, in a few words.
type step struct {
	name string
	do   func(context.Context) (string, error)
}

// follow does the steps in order and shows each with its time. The first that fails ends it.
func follow(ctx context.Context, out *screen, steps []step) error {
	start := time.Now()
	took := make([]time.Duration, len(steps))
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		out.print(fmt.Sprintf("[%d/%d] %s ...\n", i+1, len(steps), s.name))
		begun := time.Now()
		found, err := s.do(ctx)
		took[i] = time.Since(begun)
		if err != nil {
			word := "FAILED"
			if ctx.Err() != nil {
				word = "interrupted"
			}
			out.say("%s after %s", word, round(took[i]))
			return fmt.Errorf("%s: %w", s.name, err)
		}
		out.say("%s (%s)", found, round(took[i]))
	}
	out.print(fmt.Sprintf("all of it took %s; the longest: %s\n", round(time.Since(start)), longest(steps, took)))
	return nil
}

// longest names the three steps that took most of the time.
func longest(steps []step, took []time.Duration) string {
	order := make([]int, len(steps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(took[b] - took[a]) })
	var words []string
	for _, i := range order[:min(3, len(order))] {
		words = append(words, fmt.Sprintf("%s %s", steps[i].name, round(took[i])))
	}
	return strings.Join(words, ", ")
}

// atOnce does several things side by side and shows each with its time when it is done.
func atOnce(ctx context.Context, out *screen, things []step) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range things {
		group.Go(func() error {
			begun := time.Now()
			found, err := t.do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			out.say("%s: %s (%s)", t.name, found, round(time.Since(begun)))
			return nil
		})
	}
	return group.Wait()
}

// wait asks until the answer is nil and returns how long that took. After timeout it returns the last answer.
func wait(ctx context.Context, timeout time.Duration, what string, ask func(context.Context) error) (time.Duration, error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return time.Since(begun), nil
		}
		if last == nil || ctx.Err() == nil { // a question that the deadline cut short says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("expected %s within %s, found: %w", what, timeout, last)
		case <-tick.C:
		}
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
