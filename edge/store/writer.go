package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tether-edge/tether/common/object"
)

const (
	queueLength = 64   // requests that wait for the writer before callers block
	groupMax    = 64   // requests in one transaction
	groupItems  = 2048 // and changes in one transaction, so that one caller's batches do not hold up the others for long
	// rvBlock is how many local resourceVersions are reserved at once. A restart skips what is left of a block.
	rvBlock = 1 << 16
)

// A request is one caller's part of a transaction.
type request struct {
	ctx context.Context
	op  string
	// durable asks that the commit survives a power cut: a cache batch need not, the next digest mends it.
	durable bool
	// rvs is how many local resourceVersions do is likely to take.
	rvs  int
	do   func(*tx) error
	done chan error
}

// write hands do to the writer and waits until it is committed. When ctx ends first, do may still happen.
func (s *Store) write(ctx context.Context, r *request) error {
	r.ctx, r.done = ctx, make(chan error, 1)
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", r.op, ctx.Err())
	case <-s.stopped:
		return fmt.Errorf("%s: %w", r.op, ErrClosed)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", r.op, ctx.Err())
	case <-s.stopped:
	}
	select {
	case err := <-r.done:
		return err
	default:
		return fmt.Errorf("%s: %w", r.op, ErrClosed)
	}
}

// writer owns the one connection that writes.
type writer struct {
	s    *Store
	c    *conn
	full bool // whether PRAGMA synchronous is FULL now, else NORMAL
	// next and limit are the local resourceVersion to give out next and the last one reserved on disk.
	next, limit uint64
	used        [classes]int64
}

// loop serves requests until ctx is done or the database is found damaged.
func (w *writer) loop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case job := <-w.s.jobs:
			before, _ := written()
			err := job.do(w.c)
			after, _ := written()
			w.s.spent.add(w.s.spent.now(), wornUpkeep, after-before)
			job.done <- err
		case r := <-w.s.requests:
			if err := w.serve(w.group(r)); err != nil {
				return err
			}
		}
	}
}

// group takes what waits already: while one transaction reaches the disk the next one gathers.
func (w *writer) group(first *request) []*request {
	g, items := []*request{first}, first.rvs
	for len(g) < groupMax && items < groupItems {
		select {
		case r := <-w.s.requests:
			g, items = append(g, r), items+r.rvs
		default:
			return g
		}
	}
	return g
}

// serve commits a group. If the transaction as a whole fails, each request is tried by itself, so that one that does
// not fit on the disk does not take the others along. It returns an error only if the database is damaged, or if memory
// and database no longer agree.
func (w *writer) serve(g []*request) error {
	begun := time.Now()
	before, _ := written()
	errs, err := w.commit(g)
	after, _ := written()
	w.s.spent.share(w.c.rows, after-before)
	clear(w.c.rows)
	if errors.Is(err, errTorn) {
		return err // the callers see the store end
	}
	if err != nil && len(g) > 1 && !isDamage(err) {
		for _, r := range g {
			if err := w.serve([]*request{r}); err != nil {
				return err
			}
		}
		return nil
	}
	w.s.metrics.commits.Observe(time.Since(begun).Seconds())
	var damage error
	for i, r := range g {
		e := errs[i]
		if e == nil {
			e = err
		}
		e = wrap(r.op, e)
		if isDamage(e) {
			damage = e
		}
		r.done <- e
	}
	return damage
}

// commit runs the requests in one transaction, a savepoint each where there are several, and publishes its effects.
// errs holds the failures of single requests; err is the failure of all.
func (w *writer) commit(g []*request) (errs []error, err error) {
	errs = make([]error, len(g))
	t, err := w.begin(g)
	if err != nil {
		return errs, err
	}
	for i, r := range g {
		if errs[i] = r.ctx.Err(); errs[i] != nil {
			continue
		}
		if errs[i], err = t.step(r, len(g) > 1); err != nil {
			return errs, errors.Join(err, w.c.rollback())
		}
	}
	if len(g) == 1 && errs[0] != nil {
		return errs, w.c.rollback()
	}
	return errs, w.finish(t)
}

// begin opens a transaction as durable as the group needs and with enough versions reserved.
func (w *writer) begin(g []*request) (*tx, error) {
	full, rvs := false, uint64(0)
	for _, r := range g {
		full = full || r.durable
		rvs += uint64(r.rvs)
	}
	reserve := w.next+rvs > w.limit+1
	if err := w.synchronous(full || reserve); err != nil {
		return nil, err
	}
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, wrap("begin", err)
	}
	t := &tx{s: w.s, c: w.c, now: w.s.clock.Now(), limit: w.limit, effects: effects{next: w.next, used: w.used}}
	if reserve {
		t.limit = w.limit + (rvs/rvBlock+1)*rvBlock
		if err := w.c.setMeta(metaRVBlock, object.FormatRV(t.limit)); err != nil {
			return nil, errors.Join(err, w.c.rollback())
		}
	}
	return t, nil
}

// synchronous switches between fsync at each commit (FULL) and at checkpoints only (NORMAL). Not within a transaction.
func (w *writer) synchronous(full bool) error {
	if w.full == full {
		return nil
	}
	level := "NORMAL"
	if full {
		level = "FULL"
	}
	if err := w.c.run("PRAGMA synchronous = " + level); err != nil {
		return wrap("PRAGMA synchronous", err)
	}
	w.full = full
	return nil
}

// finish commits and publishes. New lists wait for the moment between the two, so that the version they report is that
// of what they read.
func (w *writer) finish(t *tx) error {
	w.s.snapshots.Lock()
	defer w.s.snapshots.Unlock()
	if _, err := w.c.exec("COMMIT"); err != nil {
		return errors.Join(wrap("commit", err), w.c.rollback())
	}
	if t.extended && !w.full {
		// Versions of a block may be shown only once the block is on the disk: an fsynced commit takes it there.
		if err := errors.Join(w.synchronous(true), w.c.setMeta(metaRVBlock, object.FormatRV(t.limit))); err != nil {
			// The group is committed and may not be shown: neither yes nor no is true. The next start sorts it out.
			return fmt.Errorf("%w: reserve versions: %w", errTorn, err)
		}
	}
	w.next, w.limit, w.used = t.next, t.limit, t.used
	w.s.rvLimit.Store(w.limit)
	w.s.publish(t)
	return nil
}

// effects are what becomes visible when a transaction is committed. It is copied before each step and put back if the
// step fails.
type effects struct {
	next   uint64 // local resourceVersion to give out next
	events []object.Event
	heads  []Head
	gone   []uint64 // ids that left the outbox
	used   [classes]int64
	moved  [classes]flow
	synced []object.ID
	losses []loss
	// remade are queued without the disk, answered the ids of those that left.
	remade   []object.Outgoing
	answered []uint64
	changed  bool // something that the second copy holds
	epoch    *string
}

// A tx is a transaction of the writer.
type tx struct {
	effects
	s   *Store
	c   *conn
	now time.Time
	// limit is the last local resourceVersion reserved; extended says that this transaction had to reserve more.
	limit    uint64
	extended bool
	refs     *references // what stored pods refer to; nil when not computed or out of date
}

// step runs one request. failed is its own failure, undone; fatal means that the whole transaction is lost.
func (t *tx) step(r *request, savepoint bool) (failed, fatal error) {
	if !savepoint {
		return r.do(t), nil
	}
	if _, err := t.c.exec("SAVEPOINT step"); err != nil {
		return nil, wrap("savepoint", err)
	}
	before, limit := t.effects, t.limit
	failed = r.do(t)
	if failed != nil {
		t.effects, t.refs, t.limit = before, nil, limit
		if isFull(failed) || isDamage(failed) || !t.c.inTransaction() {
			return failed, failed
		}
		if _, err := t.c.exec("ROLLBACK TO step"); err != nil {
			return failed, wrap("roll back", err)
		}
	}
	if _, err := t.c.exec("RELEASE step"); err != nil {
		return failed, wrap("release", err)
	}
	return failed, nil
}

// rv gives out a local resourceVersion.
func (t *tx) rv() (uint64, error) {
	if t.next > t.limit {
		t.limit, t.extended = t.limit+rvBlock, true
		if err := t.c.setMeta(metaRVBlock, object.FormatRV(t.limit)); err != nil {
			return 0, err
		}
	}
	v := t.next
	t.next++
	return v, nil
}

// emit records one change for watchers.
func (t *tx) emit(typ object.EventType, r, previous *object.Record) {
	t.events = append(t.events, object.Event{Type: typ, Record: r, Previous: previous})
}
