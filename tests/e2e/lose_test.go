package e2e

import (
	"os"
	"path/filepath"
)

// loseStore removes the edge's database and its copy, as a new disk would.
func (s *system) loseStore() {
	s.t.Helper()
	s.must(os.RemoveAll(filepath.Join(s.edge.DataDir(), "store")))
}
