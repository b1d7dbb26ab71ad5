package store

import (
	"sync"
)

// subscriptionMax bounds what a subscription remembers between two Takes.
const subscriptionMax = 1024

// A Subscription gathers changes of the outbox for a reader that must never hold up the writer.
type Subscription struct {
	// C is sent to when there is something to Take.
	C <-chan struct{}

	s *Store
	c chan struct{}
	// mu guards the fields below.
	mu       sync.Mutex
	added    []Head
	gone     []uint64
	overflow bool
}

// Subscribe returns a subscription to changes of the outbox that are committed from now on. A reader subscribes first
// and reads Queue then: a head may come both ways. It must be closed.
func (s *Store) Subscribe() *Subscription {
	c := make(chan struct{}, 1)
	sub := &Subscription{C: c, c: c, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscriptions[sub] = struct{}{}
	return sub
}

// Take returns what was queued and what left the outbox (delivered, replaced, expired or dropped) since the last Take,
// in order of commit. With overflow the reader was too slow and both are incomplete: it must read Queue anew.
func (u *Subscription) Take() (added []Head, gone []uint64, overflow bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	added, gone, overflow = u.added, u.gone, u.overflow
	u.added, u.gone, u.overflow = nil, nil, false
	return added, gone, overflow
}

// Close ends the subscription. C is not closed.
func (u *Subscription) Close() {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	delete(u.s.subscriptions, u)
}

// notify adds the outcome of one transaction.
func (u *Subscription) notify(added []Head, gone []uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.overflow:
	case len(u.added)+len(u.gone)+len(added)+len(gone) > subscriptionMax:
		u.added, u.gone, u.overflow = nil, nil, true
	default:
		u.added, u.gone = append(u.added, added...), append(u.gone, gone...)
	}
	select {
	case u.c <- struct{}{}:
	default:
	}
}
