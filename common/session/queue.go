package session

import (
	"container/heap"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// A phase says where a key waits on its way to the edge.
type phase uint8

const (
	// clean: the edge has, or has been sent, what the hub knows.
	clean phase = iota
	// ready: to be sent as soon as there is room.
	ready
	// delayed: sent a short while ago, or still changing; waits for its turn, see Hub.due.
	delayed
	// leaving: ready, no longer visible and no pod: goes after everything else.
	leaving
	// behind: the edge holds a newer version than the hub's cache; waits for the watch to catch up.
	behind
)

// entry is what a hub session remembers of one key.
type entry struct {
	// sent is the version that the edge holds or that was last put on the stream to it. RV 0: none.
	sent object.Version
	// at is when the last change of the key was put on the stream; zero if none was in this session.
	at time.Time
	// touched is when a delayed key last changed.
	touched time.Time
	phase   phase
	// inRemovals: the key stands in the queue of removals, which it may no longer belong to.
	inRemovals bool
}

// fifo is a queue of keys of one rank, oldest first.
type fifo struct {
	keys []object.Key
	head int
}

func (q *fifo) push(k object.Key) { q.keys = append(q.keys, k) }

func (q *fifo) len() int { return len(q.keys) - q.head }

func (q *fifo) pop() object.Key {
	k := q.keys[q.head]
	q.keys[q.head] = object.Key{}
	q.head++
	if q.head == len(q.keys) {
		// An idle session holds no queue memory.
		q.keys, q.head = nil, 0
	} else if q.head > 64 && q.head*2 > len(q.keys) {
		q.keys = append([]object.Key(nil), q.keys[q.head:]...)
		q.head = 0
	}
	return k
}

// timed is a key with the time at which it is due.
type timed struct {
	key object.Key
	at  time.Time
}

type timers []timed

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timed)) }
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = timed{}
	*t = old[:len(old)-1]
	if len(*t) == 0 {
		*t = nil
	}
	return last
}

func (t *timers) add(k object.Key, at time.Time) { heap.Push(t, timed{k, at}) }

// remove takes a key out before its time.
func (t *timers) remove(k object.Key) {
	for i := range *t {
		if (*t)[i].key == k {
			heap.Remove(t, i)
			return
		}
	}
}

// due takes the first key whose time has come.
func (t *timers) due(now time.Time) (object.Key, bool) {
	if len(*t) == 0 || (*t)[0].at.After(now) {
		return object.Key{}, false
	}
	return heap.Pop(t).(timed).key, true
}
