package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// How often the upkeep looks for work.
const (
	upkeepEach = 5 * time.Second
	sweepEach  = 10 * time.Minute
)

// Shrinking the file.
const (
	vacuumStep = 1 << 20 / pageSize   // pages given back in one go: the writer is held up for some milliseconds
	vacuumMin  = 256 << 10 / pageSize // free pages that are left alone: they are needed again soon
)

// upkeep refreshes the second copy, shrinks the file and drops what has expired, until ctx is done.
func (s *Store) upkeep(ctx context.Context) {
	tick := time.NewTicker(upkeepEach)
	defer tick.Stop()
	var swept time.Time
	synced := s.firstSync
	for {
		s.report(ctx, "expire outgoing writes", s.expireIfAny(ctx))
		if time.Since(swept) >= sweepEach {
			swept = time.Now()
			s.report(ctx, "erase left-over tokens", s.sweepTokens(ctx))
		}
		s.report(ctx, "shrink the database", s.shrink(ctx))
		s.report(ctx, "keep room", s.keepReserve())
		if err := s.copies.refresh(ctx); err != nil {
			s.metrics.copyFail.Inc()
			s.report(ctx, "refresh the second copy", err)
		}
		if info, err := os.Stat(s.files.main()); err == nil {
			s.metrics.size.Set(float64(info.Size()))
		}
		s.account()
		select {
		case <-ctx.Done():
			return
		case <-synced:
			synced = nil // the first copy is made at once
		case <-tick.C:
		}
	}
}

func (s *Store) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) {
		s.log.Warn("upkeep of the store failed, it is tried again", "what", what, "error", err)
	}
}

// expireIfAny spares the writer a transaction where nothing has expired.
func (s *Store) expireIfAny(ctx context.Context) error {
	var n int64
	err := s.read(ctx, "look for expired writes", func(c *conn) (err error) {
		n, err = c.number("SELECT count(*) FROM outbox WHERE expires > 0 AND expires <= ?", millis(s.clock.Now()))
		return err
	})
	if err != nil || n == 0 {
		return err
	}
	return s.expire(ctx)
}

// run hands do to the writer, to be run between transactions.
func (s *Store) run(ctx context.Context, do func(*conn) error) error {
	j := &job{do: do, done: make(chan error, 1)}
	select {
	case s.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return ErrClosed
	}
}

// shrink gives free pages back to the file system, a step at a time.
func (s *Store) shrink(ctx context.Context) error {
	for {
		var left int64
		err := s.run(ctx, func(c *conn) (err error) {
			if left, err = c.number("PRAGMA freelist_count"); err != nil || left <= vacuumMin {
				return err
			}
			// The pragma frees one page per row that is read from it.
			q := fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(left-vacuumMin, vacuumStep))
			if err := c.query(q, nil, func(func(...any) error) error { return nil }); err != nil {
				return err
			}
			left = max(vacuumMin, left-vacuumStep)
			if left > vacuumMin {
				return nil
			}
			// The file ends earlier only once the log is moved into it.
			return c.query("PRAGMA wal_checkpoint(TRUNCATE)", nil, func(func(...any) error) error { return nil })
		})
		if err != nil || left <= vacuumMin {
			return wrap("incremental vacuum", err)
		}
	}
}
