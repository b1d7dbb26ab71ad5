package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

const (
	ringName    = "keys.json"
	keyFileName = "key"
	ringVersion = 1
	maxRing     = 1 << 20
)

// ring is the file of keys. The last entry is the present key's.
type ring struct {
	Version int     `json:"version"`
	Keys    []entry `json:"keys"`
}

// An entry is a data key as it is on the disk.
type entry struct {
	ID      int64     `json:"id"`
	Source  string    `json:"source"`
	Created time.Time `json:"created"`
	// Wrapped is the key, sealed by the source.
	Wrapped []byte `json:"wrapped"`
}

// readRing returns the entries of the file at path, none if there is no file. One that is damaged is moved aside: what its
// keys sealed is lost, as if they were.
func readRing(path string, log *slog.Logger) ([]entry, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var b []byte
	if err == nil && info.Size() <= maxRing {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	// A later version may have another form.
	var f ring
	var head struct{ Version int }
	if err = json.Unmarshal(b, &head); err == nil && head.Version > ringVersion {
		return nil, fmt.Errorf("seal: %s has version %d, this edgecore knows up to %d; install the edgecore that wrote it or a later one", path, head.Version, ringVersion)
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err == nil {
		err = f.check()
	}
	if err != nil {
		log.Error("the file of keys is damaged and set aside: stored Secrets and tokens come from the cloud again", "path", path, "error", err)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		return nil, nil
	}
	return f.Keys, nil
}

func (f *ring) check() error {
	if f.Version != ringVersion {
		return fmt.Errorf("expected version %d, found %d", ringVersion, f.Version)
	}
	seen := map[int64]bool{}
	for _, e := range f.Keys {
		if e.ID <= 0 || seen[e.ID] {
			return fmt.Errorf("expected positive ids, each once, found %d", e.ID)
		}
		seen[e.ID] = true
	}
	return nil
}

func writeRing(path string, entries []entry) error {
	b, err := json.MarshalIndent(ring{ringVersion, entries}, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(path, append(b, '\n'), 0o600)
}
