package image

import (
	"context"
	"sync"
	"time"
)

// sandboxImage remembers the runtime's answer for a while: a verbose status is its whole configuration.
type sandboxImage struct {
	now func() time.Time

	mu   sync.Mutex // guards what follows
	name string
	at   time.Time // zero before the first answer
}

func (s *sandboxImage) get(ctx context.Context, ask func(context.Context) (string, error)) (string, error) {
	s.mu.Lock()
	name, fresh := s.name, !s.at.IsZero() && s.now().Sub(s.at) < sandboxFor
	s.mu.Unlock()
	if fresh {
		return name, nil
	}
	name, err := ask(ctx)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.at = name, s.now()
	return name, nil
}
