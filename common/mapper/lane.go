package mapper

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/backoff"
)

// ErrAway is wrapped by the error of a Push that sent nothing, since who is to have it is not there (yet). The value is tried again,
// unless a newer one takes its place.
var ErrAway = errors.New("not there")

// A way is one way to push one property.
type way struct {
	push     Push
	property string
	failing  bool // since the last push that went through; the lane's goroutine's own
}

// A lane pushes what goes to one target: one value at a time, of each way the newest, and in turn, so that a target which is slow has
// something of every property, and one which is dead holds up no other.
type lane struct {
	log     *slog.Logger
	timeout time.Duration
	news    chan struct{} // holds one while somebody may be waiting

	mu      sync.Mutex      // guards what follows
	newest  map[*way]Sample // what waits
	turns   []*way          // those of newest, the first first
	crowded time.Time       // when it was logged last that values do not go as fast as they come
}

func newLane(log *slog.Logger, timeout time.Duration) *lane {
	return &lane{log: log, timeout: timeout, news: make(chan struct{}, 1), newest: map[*way]Sample{}}
}

// sayCrowded is how often it is logged of one target that values do not go there as fast as they come.
const sayCrowded = time.Minute

// add takes a value to push, in the place of the one of the same way that waits. It does not block.
func (l *lane) add(y *way, s Sample) {
	l.mu.Lock()
	_, waits := l.newest[y]
	l.newest[y] = s
	if !waits {
		l.turns = append(l.turns, y)
	}
	crowded := waits && time.Since(l.crowded) >= sayCrowded
	if crowded {
		l.crowded = time.Now()
	}
	l.mu.Unlock()
	if crowded {
		l.log.Warn("values are not pushed as fast as they come: of each property the newest goes", "property", y.property)
	}
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// take returns the value whose turn it is.
func (l *lane) take() (y *way, s Sample, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.turns) == 0 {
		return nil, s, false
	}
	y = l.turns[0]
	l.turns = l.turns[1:]
	s = l.newest[y]
	delete(l.newest, y)
	return y, s, true
}

// giveBack puts a value that was not pushed last in the row, unless there is a newer one.
func (l *lane) giveBack(y *way, s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.newest[y]; !waits {
		l.newest[y] = s
		l.turns = append(l.turns, y)
	}
}

// patientTries is how often a target is tried before it is logged that it is away: a client takes its time to connect.
const patientTries = 5

// run pushes until ctx ends.
func (l *lane) run(ctx context.Context) {
	retry, away := backoff.New(backoff.Config{Base: 50 * time.Millisecond, Max: time.Second}), false
	for ctx.Err() == nil {
		y, s, ok := l.take()
		if !ok {
			select {
			case <-l.news:
			case <-ctx.Done():
			}
			continue
		}
		err := l.one(ctx, y, s)
		switch {
		case ctx.Err() != nil && err != nil:
			l.giveBack(y, s)
		case errors.Is(err, ErrAway):
			l.giveBack(y, s)
			if retry.Tries() == patientTries {
				away = true
				l.log.Warn("cannot push values; trying again", "property", y.property, "error", err)
			}
			_ = retry.Wait(ctx) // its error is that of ctx, which ends the loop
		default:
			retry.Reset()
			if away {
				away = false
				l.log.Info("there is somebody again to push values to", "property", y.property)
			}
		}
	}
}

// one pushes a value, and logs that its way begins or ceases to fail.
func (l *lane) one(ctx context.Context, y *way, s Sample) error {
	limited, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	err := y.push.Push(limited, s)
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrAway):
		return err
	case err != nil && !y.failing:
		l.log.Warn("cannot push values; trying on", "property", y.property, "error", err)
	case err == nil && y.failing:
		l.log.Info("values are pushed again", "property", y.property)
	}
	y.failing = err != nil
	return err
}

// waiting are the properties of which a value was not pushed.
func (l *lane) waiting() (properties []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, y := range l.turns {
		properties = append(properties, y.property)
	}
	return properties
}
