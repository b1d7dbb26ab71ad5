package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// step is one thing that up does. do returns what a person should know about the result, in a few words.
type step struct {
	name string
	do   func(context.Context) (string, error)
}

// follow does the steps in order and shows each with its time. The first that fails ends it.
func follow(ctx context.Context, out io.Writer, steps []step) error {
	start := time.Now()
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(out, "[%d/%d] %s ...\n", i+1, len(steps), s.name)
		begun := time.Now()
		found, err := s.do(ctx)
		if err != nil {
			fmt.Fprintf(out, "      FAILED after %s\n", round(time.Since(begun)))
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "      %s (%s)\n", found, round(time.Since(begun)))
	}
	fmt.Fprintf(out, "all of it took %s\n", round(time.Since(start)))
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
