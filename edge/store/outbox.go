package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// classes is the number of object.Class values; in-memory counters are arrays indexed by class.
const classes = 3

// A Head describes a queued write without its body.
type Head struct {
	ID       uint64
	Key      object.Key
	UID      string
	Op       object.Op
	Class    object.Class
	Priority int
	// Size is what the write counts in its class's quota, in bytes.
	Size    int64
	Expires time.Time
}

// Remade reports whether the write waits in memory, and is made again after a restart: its id is of another row than those of the others.
func (h Head) Remade() bool { return h.ID&remadeBit != 0 }

// Why a message went undelivered.
const (
	lostExpired = "expired" // its time to live ended
	lostEvicted = "evicted" // dropped to make room for a newer one
	lostRefused = "refused" // there was no room for it
)

type loss struct {
	class  object.Class
	reason string
	count  uint64
}

// Losses counts the messages of a class that went undelivered, since the database was made.
type Losses struct {
	Expired, Evicted, Refused uint64
}

func (l *Losses) add(reason string, n uint64) {
	switch reason {
	case lostExpired:
		l.Expired += n
	case lostEvicted:
		l.Evicted += n
	case lostRefused:
		l.Refused += n
	}
}

func checkOutgoing(o *object.Outgoing) error {
	if err := o.Key.Validate(); err != nil {
		return fmt.Errorf("outgoing write: %w", err)
	}
	if o.Class < 0 || o.Class >= classes {
		return fmt.Errorf("outgoing write of %s: unknown class %d, expected 0 to %d", o.Key, o.Class, classes-1)
	}
	if o.Remade && o.Class != object.ClassState {
		return fmt.Errorf("outgoing write of %s: of class %s, expected state, which alone is made again", o.Key, className(o.Class))
	}
	if o.Op < object.OpOverlay || o.Op > object.OpPut {
		return fmt.Errorf("outgoing write of %s: unknown operation %d", o.Key, o.Op)
	}
	if sealedKind(o.Key.Kind) {
		return fmt.Errorf("outgoing write of %s: nothing on the edge writes Secrets, and the outbox is not sealed", o.Key)
	}
	return nil
}

const supersedeOutgoing = "DELETE FROM outbox WHERE class = 0 AND kind = ? AND namespace = ? AND name = ? AND op = ? AND uid = ? RETURNING id, size"

// queue puts o into the outbox. State replaces what waits for the same incarnation and operation; other classes must
// fit their quota and leave the disk its floor.
func (t *tx) queue(o object.Outgoing) error {
	if o.Created.IsZero() {
		o.Created = t.now
	}
	if o.Remade {
		return t.queueRemade(o)
	}
	if o.Class == object.ClassState {
		if err := t.supersede(&o); err != nil {
			return err
		}
	} else if fits, err := t.fit(&o); err != nil || !fits {
		return err
	}
	id, err := t.c.putOutgoing(&o)
	if err != nil {
		return err
	}
	t.used[o.Class] += outgoingSize(&o)
	t.moved[o.Class].accepted++
	t.heads = append(t.heads, Head{ID: id, Key: o.Key, UID: o.UID, Op: o.Op, Class: o.Class, Priority: o.Priority,
		Size: outgoingSize(&o), Expires: o.Expires})
	return nil
}

// supersede takes out what waits for the same incarnation and operation as o.
func (t *tx) supersede(o *object.Outgoing) error {
	before := len(t.gone)
	err := t.c.query(supersedeOutgoing, []any{string(o.Key.Kind), o.Key.Namespace, o.Key.Name, int64(o.Op), o.UID}, t.left(o.Class))
	t.moved[o.Class].replaced += len(t.gone) - before
	return wrap("replace a queued write of "+o.Key.String(), err)
}

// A flow counts the writes of a class that the database took, and what became of them, but for the losses: those that the cloud answered for
// good, and those that a newer one of the same object replaced.
type flow struct{ accepted, answered, replaced int }

// left notes rows (id, size) that leave the outbox.
func (t *tx) left(class object.Class) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var id, size int64
		if err := scan(&id, &size); err != nil {
			return err
		}
		t.used[class] -= size
		t.gone = append(t.gone, uint64(id))
		t.c.touch(wornOutbox, 0)
		return nil
	}
}

// fit makes room for a message, or says that it goes without: then it is counted, or refused with ErrFull.
func (t *tx) fit(o *object.Outgoing) (bool, error) {
	size, quota := outgoingSize(o), t.s.cfg.EventQuota
	low := t.s.lowOnSpace()
	if !low && size <= quota && o.Policy == object.DropOldest {
		for t.used[o.Class]+size > quota {
			before := len(t.gone)
			err := t.c.query("DELETE FROM outbox WHERE id = (SELECT min(id) FROM outbox WHERE class = ?) RETURNING id, size",
				[]any{int64(o.Class)}, t.left(o.Class))
			if err != nil {
				return false, wrap("make room in the outbox", err)
			}
			if len(t.gone) == before {
				break
			}
			if err := t.lose(o.Class, lostEvicted, 1); err != nil {
				return false, err
			}
		}
	}
	if !low && t.used[o.Class]+size <= quota {
		return true, nil
	}
	if o.Policy == object.RejectNew {
		t.s.countLoss(loss{o.Class, lostRefused, 1})
		if low {
			return false, fmt.Errorf("queue %s: free disk space is below the floor of %d bytes: %w", o.Key, t.s.cfg.FreeSpaceFloor, object.ErrFull)
		}
		return false, fmt.Errorf("queue %s: %d bytes on top of %d exceed the quota of %d: %w", o.Key, size, t.used[o.Class], quota, object.ErrFull)
	}
	return false, t.lose(o.Class, lostRefused, 1)
}

// lose counts messages that go undelivered.
func (t *tx) lose(class object.Class, reason string, n uint64) error {
	t.losses = append(t.losses, loss{class, reason, n})
	t.c.touch(wornState, 0)
	_, err := t.c.exec("INSERT INTO losses (class, reason, count) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
		int64(class), reason, int64(n))
	return wrap("count a lost message", err)
}

// Queue calls visit with every waiting write, highest priority first and oldest first within one. visit must not block
// and must not call the store: the database's log cannot be cleared meanwhile.
func (s *Store) Queue(ctx context.Context, visit func(Head) error) error {
	now := millis(s.clock.Now())
	return s.read(ctx, "read the outbox", func(c *conn) error {
		return s.remade.between(visit, func(visit func(Head) error) error {
			return c.query("SELECT id, kind, namespace, name, uid, op, class, priority, size, expires FROM outbox "+
				"WHERE expires = 0 OR expires > ? ORDER BY priority DESC, id", []any{now},
				func(scan func(...any) error) error {
					var h Head
					var id, expires int64
					if err := scan(&id, &h.Key.Kind, &h.Key.Namespace, &h.Key.Name, &h.UID, &h.Op, &h.Class, &h.Priority, &h.Size, &expires); err != nil {
						return err
					}
					h.ID, h.Expires = uint64(id), fromMillis(expires)
					return visit(h)
				})
		})
	})
}

// Waiting sums up the queued writes of a class.
type Waiting struct {
	Class string `json:"class"`
	Count int64  `json:"count"`
	// Bytes is what they count in the class's quota.
	Bytes int64 `json:"bytes"`
	// Oldest is when the one that waits longest was made.
	Oldest time.Time `json:"oldest"`
}

// Waiting returns what waits for the cloud, by class; a class of which nothing waits is not there.
func (s *Store) Waiting(ctx context.Context) (list []Waiting, err error) {
	now := millis(s.clock.Now())
	err = s.read(ctx, "sum up the outbox", func(c *conn) error {
		list = nil
		return c.query("SELECT class, count(*), sum(size), min(created) FROM outbox WHERE expires = 0 OR expires > ? GROUP BY class ORDER BY class",
			[]any{now}, func(scan func(...any) error) error {
				var w Waiting
				var class, oldest int64
				if err := scan(&class, &w.Count, &w.Bytes, &oldest); err != nil {
					return err
				}
				w.Class, w.Oldest = className(object.Class(class)), fromMillis(oldest)
				list = append(list, w)
				return nil
			})
	})
	if err != nil {
		return nil, err
	}
	return s.remade.addTo(list), nil
}

// LoadOutgoing reads a queued write. ok is false if it is no longer there: answered, replaced, expired or dropped.
func (s *Store) LoadOutgoing(ctx context.Context, id uint64) (o object.Outgoing, ok bool, err error) {
	if id&remadeBit != 0 {
		o, ok = s.remade.load(id)
		return o, ok, nil
	}
	err = s.read(ctx, "read an outgoing write", func(c *conn) error {
		return c.query(selectOutgoing, []any{int64(id)}, func(scan func(...any) error) error {
			if o, err = scanOutgoing(scan); err != nil {
				return err
			}
			ok = o.Expires.IsZero() || o.Expires.After(s.clock.Now())
			return nil
		})
	})
	if err != nil || !ok {
		return object.Outgoing{}, false, err
	}
	return o, true, nil
}

// leaveStep is how many writes leave the outbox in one transaction. What is deleted is overwritten, by way of the log: a backlog
// that left at once would need as much room again, which a disk at its floor does not have, and hold up everybody meanwhile.
const leaveStep = 64

// Drop takes writes out of the outbox because the cloud answered them for good. Ids that are not there are ignored. Where it fails,
// some may have left.
func (s *Store) Drop(ctx context.Context, ids ...uint64) error {
	for step := range slices.Chunk(ids, leaveStep) {
		// Not durable: a drop lost in a power cut means that the write goes up once more, and all of them can be repeated.
		if err := s.write(ctx, &request{op: "drop outgoing writes", do: func(t *tx) error {
			for _, id := range step {
				if err := t.dropOutgoing(id); err != nil {
					return err
				}
			}
			return nil
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) dropOutgoing(id uint64) error {
	if id&remadeBit != 0 {
		t.answered = append(t.answered, id)
		return nil
	}
	class := object.Class(-1)
	var size int64
	err := t.c.query("DELETE FROM outbox WHERE id = ? RETURNING class, size", []any{int64(id)},
		func(scan func(...any) error) error { return scan(&class, &size) })
	if err != nil {
		return wrap("drop an outgoing write", err)
	}
	if class >= 0 {
		t.used[class] -= size
		t.moved[class].answered++
		t.gone = append(t.gone, id)
		t.c.touch(wornOutbox, 0)
	}
	return nil
}

// expire drops the messages whose time to live has ended.
func (s *Store) expire(ctx context.Context) error {
	for {
		var left int
		if err := s.write(ctx, &request{op: "expire outgoing writes", do: func(t *tx) (err error) {
			left, err = t.expire(leaveStep)
			return err
		}}); err != nil || left < leaveStep {
			return err
		}
	}
}

// expire drops so many of those messages at most, and returns how many it were.
func (t *tx) expire(most int) (n int, err error) {
	begun := len(t.gone)
	for class := range object.Class(classes) {
		before := len(t.gone)
		err := t.c.query("DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE class = ? AND expires > 0 AND expires <= ? ORDER BY id LIMIT ?) RETURNING id, size",
			[]any{int64(class), millis(t.now), int64(most - (before - begun))}, t.left(class))
		if err != nil {
			return 0, wrap("expire outgoing writes", err)
		}
		if n := len(t.gone) - before; n > 0 {
			if err := t.lose(class, lostExpired, uint64(n)); err != nil {
				return 0, err
			}
		}
	}
	return len(t.gone) - begun, nil
}

// Shift moves the times of queued messages by that much: the clock that they were reckoned by is put right by it. Some may
// have been reckoned rightly, before the clock went wrong: they live longer, and nothing is lost.
func (s *Store) Shift(ctx context.Context, by time.Duration) error {
	return s.write(ctx, &request{op: "shift the lives of queued messages", durable: true, do: func(t *tx) error {
		var moved []object.Outgoing
		if err := t.c.query("SELECT id, "+outboxColumns+" FROM outbox WHERE expires > 0", nil, func(scan func(...any) error) error {
			o, err := scanOutgoing(scan)
			moved = append(moved, o)
			return err
		}); err != nil {
			return wrap("read the outbox", err)
		}
		for i := range moved {
			o := &moved[i]
			o.Created, o.Expires = o.Created.Add(by), o.Expires.Add(by)
			if _, err := t.c.exec("UPDATE outbox SET created = ?, expires = ?, sum = ? WHERE id = ?",
				millis(o.Created), millis(o.Expires), sumOutgoing(o), int64(o.ID)); err != nil {
				return wrap("shift a queued message", err)
			}
		}
		return nil
	}})
}

// Dropped returns how many messages of each class went undelivered since the database was made. Those refused while
// the disk was full are counted until the next restart only.
func (s *Store) Dropped() map[object.Class]Losses {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[object.Class]Losses{}
	for class, l := range s.losses {
		out[object.Class(class)] = l
	}
	return out
}

func (s *Store) countLoss(l loss) {
	s.mu.Lock()
	s.losses[l.class].add(l.reason, l.count)
	s.mu.Unlock()
	s.metrics.lost.WithLabelValues(className(l.class), l.reason).Add(float64(l.count))
}

func className(c object.Class) string {
	switch c {
	case object.ClassState:
		return "state"
	case object.ClassEvent:
		return "event"
	case object.ClassTelemetry:
		return "telemetry"
	}
	return "unknown"
}

// usage reads the bytes queued per class, and in how many writes, once at start.
func usage(c *conn) (used, found [classes]int64, err error) {
	err = c.query("SELECT class, sum(size), count(*) FROM outbox GROUP BY class", nil, func(scan func(...any) error) error {
		var class, size, n int64
		if err := scan(&class, &size, &n); err != nil {
			return err
		}
		if class < 0 || class >= classes {
			return errors.Join(fmt.Errorf("outbox: unknown class %d", class), ErrDamaged)
		}
		used[class], found[class] = size, n
		return nil
	})
	return used, found, wrap("read the outbox", err)
}
