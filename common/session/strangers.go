package session

import "sync"

const (
	maxStrangers    = 64 // features that are told of at all
	maxStrangerName = 64 // bytes of one that are told
)

// Strangers are the features that peers offered and this version does not know. Each is told of once a process, though
// ten thousand edges offer it at every connect (I12). The zero value is ready, and safe for concurrent use.
type Strangers struct {
	mu   sync.Mutex
	told map[string]bool
}

// Untold returns those of the features that were not told of before. A peer that invents names without end is not told
// of without end.
func (s *Strangers) Untold(features []string) (untold []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range features {
		f = f[:min(len(f), maxStrangerName)]
		if s.told[f] || len(s.told) == maxStrangers {
			continue
		}
		if s.told == nil {
			s.told = map[string]bool{}
		}
		s.told[f] = true
		untold = append(untold, f)
	}
	return untold
}
