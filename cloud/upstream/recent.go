package upstream

import (
	"sync"
	"time"

	"github.com/tether-edge/tether/common/object"
)

const (
	recentFor = 10 * time.Second
	maxRecent = 2048
)

// recent remembers objects that were just written, until the shared cache has surely seen them. Without it the
// second of two writes in a row would be merged into the state before the first: a conflict at best, and a write that
// seems to change nothing at worst.
type recent struct {
	clock Clock

	// mu guards the fields below.
	mu      sync.Mutex
	objects map[object.Key]*written
	order   []*written // oldest first
}

type written struct {
	key    object.Key
	object object.Object
	rv     uint64
	at     time.Time
}

func newRecent(clock Clock) *recent {
	return &recent{clock: clock, objects: map[object.Key]*written{}}
}

// add remembers o, which nobody changes afterwards.
func (r *recent) add(key object.Key, o object.Object) {
	v, err := object.VersionOf(o)
	if err != nil {
		return
	}
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && (len(r.order) >= maxRecent || now.Sub(r.order[0].at) > recentFor) {
		if r.objects[r.order[0].key] == r.order[0] {
			delete(r.objects, r.order[0].key)
		}
		r.order[0] = nil
		r.order = r.order[1:]
	}
	if old := r.objects[key]; old != nil && old.rv > v.RV {
		return
	}
	w := &written{key: key, object: o, rv: v.RV, at: now}
	r.objects[key] = w
	r.order = append(r.order, w)
}

// newer returns what was written to key if it is newer than the cache's version. Callers must not change it.
func (r *recent) newer(key object.Key, cached uint64) (object.Object, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.objects[key]
	// What was written long ago is in the cache, unless the API server went back in time.
	if w == nil || w.rv <= cached || r.clock.Now().Sub(w.at) > recentFor {
		return nil, false
	}
	return w.object, true
}
