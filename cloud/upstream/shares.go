package upstream

import (
	"context"
	"sync"
)

// shares lets each owner have so many of something at once, so that one cannot take what is there for all.
type shares struct {
	each int

	mu sync.Mutex
	// owners, guarded by mu, holds the share of each owner that has one or waits for one.
	owners map[string]*share
}

type share struct {
	slots chan struct{}
	users int
}

func newShares(each int) *shares { return &shares{each: each, owners: map[string]*share{}} }

// take waits until owner has less than its share, or ctx ends.
func (s *shares) take(ctx context.Context, owner string) (release func(), err error) {
	s.mu.Lock()
	own := s.owners[owner]
	if own == nil {
		own = &share{slots: make(chan struct{}, s.each)}
		s.owners[owner] = own
	}
	own.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(s.owners, owner)
		}
	}
	select {
	case own.slots <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	return func() { <-own.slots; leave() }, nil
}

func (s *shares) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.owners) }
