package link

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// job is a batch to commit, or kinds to mark as synced.
type job struct {
	batch *wire.Batch
	kinds []object.ID
}

// outcome says that everything up to a batch is committed, or what failed.
type outcome struct {
	seq uint64
	err error
	// partly: some of it had no room on the disk.
	partly bool
}

// applier commits batches in order, beside the session's loop. What waits for it is bounded by the hub's window.
type applier struct {
	l       *Link
	results chan outcome
	done    chan struct{}
	more    chan struct{}
	// partly: something had no room in this session, so nothing counts as completely received. It belongs to run.
	partly bool

	// mu guards jobs.
	mu   sync.Mutex
	jobs []job
}

func newApplier(l *Link) *applier {
	return &applier{l: l, results: make(chan outcome), done: make(chan struct{}), more: make(chan struct{}, 1)}
}

func (a *applier) add(j job) {
	a.mu.Lock()
	a.jobs = append(a.jobs, j)
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
}

func (a *applier) run(ctx context.Context) {
	defer close(a.done)
	for {
		select {
		case <-a.more:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		jobs := a.jobs
		a.jobs = nil
		a.mu.Unlock()
		for len(jobs) > 0 {
			var out outcome
			jobs, out = a.step(ctx, jobs)
			if out.seq == 0 && out.err == nil {
				continue
			}
			select {
			case a.results <- out:
			case <-ctx.Done():
				return
			}
		}
	}
}

// step commits the batches at the head of jobs in one transaction, or marks one sync.
func (a *applier) step(ctx context.Context, jobs []job) ([]job, outcome) {
	// A commit that has begun is finished: the next Hello must know what is in the store.
	ctx = context.WithoutCancel(ctx)
	if jobs[0].batch == nil && a.partly {
		return jobs[1:], outcome{}
	}
	if jobs[0].batch == nil {
		if err := a.l.deps.Store.MarkSynced(ctx, jobs[0].kinds); err != nil {
			return nil, outcome{err: fmt.Errorf("mark synced: %w", err)}
		}
		return jobs[1:], outcome{}
	}
	var items []Incoming
	var seq uint64
	n := 0
	for ; n < len(jobs) && jobs[n].batch != nil; n++ {
		seq = jobs[n].batch.Seq
		for _, it := range jobs[n].batch.Items {
			items = append(items, a.item(it))
		}
	}
	err := a.l.deps.Store.ApplyBatch(ctx, items)
	partly := errors.Is(err, object.ErrPartly)
	if err != nil && !partly {
		return nil, outcome{err: fmt.Errorf("commit batch %d: %w", seq, err)}
	}
	a.partly = a.partly || partly
	a.l.metrics.items.Add(float64(len(items)))
	return jobs[n:], outcome{seq: seq, partly: partly}
}

// item reads one item. What is wrong with one must not stop the others (I9).
func (a *applier) item(it *wire.Item) Incoming {
	in := Incoming{Key: object.Key{Kind: object.ID(it.Kind), Namespace: it.Namespace, Name: it.Name},
		Version: object.Version{UID: it.Uid, RV: it.ResourceVersion}, Cause: object.Cause(it.Cause)}
	if it.Cause == wire.Cause_CAUSE_NONE {
		in.Body, in.Bad = a.l.deps.Codec.Open(it.Body, it.Compression)
	}
	return in
}
