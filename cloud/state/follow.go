package state

import (
	"slices"
	"sync"

	"github.com/tether-edge/tether/common/object"
)

// Follow has notify called with the key of every object of the kinds that the cache holds, and then of each that is
// added, changed or deleted, whoever sees it, until cancel is called. It is for the parts of CloudCore that work on the
// whole cluster. notify is called as Subscribe says.
func (c *Cache) Follow(kinds []object.ID, notify func([]object.Key)) (cancel func()) {
	s := &subscription{notify: notify}
	var ch changes
	c.mu.Lock()
	for _, id := range kinds {
		k := c.g.kinds[id]
		if k == nil {
			continue
		}
		k.followers = append(k.followers, s)
		for _, e := range k.entries {
			if e.present() {
				ch.dirty = append(ch.dirty, dirty{s, e.key()})
			}
		}
	}
	c.mu.Unlock()
	c.publish(&ch)
	var once sync.Once
	return func() { once.Do(func() { c.unfollow(kinds, s) }) }
}

// Keys returns the key of every object of a kind that the cache holds, in no order.
func (c *Cache) Keys(kind object.ID) []object.Key {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k := c.g.kinds[kind]
	if k == nil {
		return nil
	}
	var keys []object.Key
	for _, e := range k.entries {
		if e.present() {
			keys = append(keys, e.key())
		}
	}
	return keys
}

func (c *Cache) unfollow(kinds []object.ID, s *subscription) {
	c.mu.Lock()
	for _, id := range kinds {
		if k := c.g.kinds[id]; k != nil {
			k.followers = slices.DeleteFunc(k.followers, func(o *subscription) bool { return o == s })
		}
	}
	c.mu.Unlock()
	c.disp.cancel(s)
}
