package mqtt

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/backoff"
)

// Memory keeps what must outlive the process: sessions, subscriptions, messages under way, and retained messages.
type Memory interface {
	// Apply makes all changes, in order, in one transaction, and returns once they are durable. One goroutine calls it.
	Apply(ctx context.Context, changes []Change) error
	// All visits everything in a bucket, in any order, until visit fails. It is called at start only.
	All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error
}

// A Change sets a key to Value, or deletes it if Value is nil. Keys are text of up to 66,000 bytes, with any character but NUL.
type Change struct {
	Bucket, Key string
	Value       []byte
}

// A journal writes changes to a Memory in the background, many at a time. Of several changes of one key that wait, the last
// is written.
type journal struct {
	mem     Memory // nil: nothing is kept
	log     *slog.Logger
	metrics *metrics
	limit   int // bytes that may wait

	mu        sync.Mutex // guards the fields below
	waiting   []Change
	index     map[[2]string]int // into waiting
	bytes     int
	batch     uint64        // the number of the batch that waiting will be
	committed uint64        // the last batch that is durable
	progress  chan struct{} // closed and replaced when committed grows
	wake      chan struct{} // holds one; tells the writer that something waits
}

const (
	journalBytes = 8 << 20
	// patience is how long a client waits for the disk; then its connection is closed, and it will send again.
	patience = 15 * time.Second
	// lastWrite bounds a write while the broker stops.
	lastWrite = 5 * time.Second
)

func newJournal(mem Memory, log *slog.Logger, m *metrics) *journal {
	return &journal{mem: mem, log: log, metrics: m, limit: journalBytes, index: map[[2]string]int{}, batch: 1,
		progress: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// room waits until little enough waits to be written. False if that does not come, or gone is closed first.
func (j *journal) room(gone <-chan struct{}) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		j.mu.Lock()
		free, progress := j.bytes <= j.limit, j.progress
		j.mu.Unlock()
		if free {
			return true
		}
		select {
		case <-progress:
		case <-gone:
			return false
		case <-deadline.C:
			j.metrics.unsaved.Inc()
			return false
		}
	}
}

// add queues changes that are committed together, and returns a ticket for wait. It does not block: who adds on a client's
// behalf asks for room first.
func (j *journal) add(changes ...Change) (ticket uint64) {
	if j.mem == nil || len(changes) == 0 {
		return 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range changes {
		key := [2]string{c.Bucket, c.Key}
		if i, ok := j.index[key]; ok {
			j.bytes += len(c.Value) - len(j.waiting[i].Value)
			j.waiting[i] = c
			continue
		}
		j.index[key] = len(j.waiting)
		j.waiting = append(j.waiting, c)
		j.bytes += len(c.Bucket) + len(c.Key) + len(c.Value)
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return j.batch
}

// wait waits until what the ticket is for is durable. False if that does not come, or gone is closed first.
func (j *journal) wait(ticket uint64, gone <-chan struct{}) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		j.mu.Lock()
		done, progress := j.committed >= ticket, j.progress
		j.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-progress:
		case <-gone:
			return false
		case <-deadline.C:
			return false
		}
	}
}

// run writes until ctx is done, and then what still waits, once.
func (j *journal) run(ctx context.Context) {
	if j.mem == nil {
		return
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-j.wake:
			j.write(ctx)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	if changes, _ := j.take(); len(changes) > 0 {
		if err := j.mem.Apply(last, changes); err != nil {
			j.log.Error("the last changes of MQTT sessions are not stored", "changes", len(changes), "error", err)
		}
	}
}

func (j *journal) take() ([]Change, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	changes, n := j.waiting, j.batch
	if len(changes) == 0 {
		return nil, 0
	}
	j.waiting, j.index, j.bytes, j.batch = nil, map[[2]string]int{}, 0, j.batch+1
	return changes, n
}

// write writes what waits, until the Memory takes it.
func (j *journal) write(ctx context.Context) {
	changes, n := j.take()
	if len(changes) == 0 {
		return
	}
	// A stop must not undo a commit that is under way, nor wait for one for ever.
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWrite, cancel) })()
	pause := backoff.New(backoff.Config{Base: 100 * time.Millisecond, Max: 5 * time.Second})
	for {
		err := j.mem.Apply(working, changes)
		if err == nil {
			break
		}
		j.metrics.saveErrors.Inc()
		j.log.Error("cannot store MQTT sessions", "changes", len(changes), "error", err)
		if pause.Wait(ctx) != nil {
			return
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.committed = n
	close(j.progress)
	j.progress = make(chan struct{})
}
