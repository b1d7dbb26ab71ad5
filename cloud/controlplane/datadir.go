package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	markerName = "tether-controlplane.json"
	lockName   = "lock"
	tempPrefix = ".tmp-"

	// dataFormat is raised when a directory written by this code could not be used by older code.
	dataFormat = 1
	// lockPatience covers the moment between the death of a killed predecessor and that of its children.
	lockPatience = 2 * time.Second
)

// marker is the content of markerName, by which a directory is known to be ours.
type marker struct {
	// Format is dataFormat at the time the directory was made.
	Format int `json:"format"`
	// Created is for people.
	Created time.Time `json:"created"`
}

// dataDir is a directory that is ours, and locked by us until close.
type dataDir struct {
	path string
	// lock is inherited by every component, so that it is free only once they are all gone.
	lock *os.File
}

func (d *dataDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

func (d *dataDir) close() { d.lock.Close() }

// openDataDir makes the directory or recognizes it, and locks it. It changes
// nothing in a directory that it refuses.
func openDataDir(ctx context.Context, path string, now time.Time) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := checkMarker(path); err != nil {
		return nil, err
	}
	lock, err := lockDataDir(ctx, path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.prepare(now); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dataDir) prepare(now time.Time) error {
	if _, err := os.Stat(d.join(markerName)); errors.Is(err, os.ErrNotExist) {
		body, err := json.Marshal(marker{Format: dataFormat, Created: now.UTC()})
		if err != nil {
			return fmt.Errorf("encode %s: %w", markerName, err)
		}
		if err := writeFile(d.join(markerName), append(body, '\n'), 0o600); err != nil {
			return fmt.Errorf("mark data directory: %w", err)
		}
	}
	for _, sub := range []string{"etcd", "pki", "logs"} {
		if err := os.MkdirAll(d.join(sub), 0o700); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	return nil
}

// checkMarker refuses a directory with files in it that this package did not make.
func checkMarker(path string) error {
	body, err := os.ReadFile(filepath.Join(path, markerName))
	if errors.Is(err, os.ErrNotExist) {
		return checkEmpty(path)
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var m marker
	if err := json.Unmarshal(body, &m); err != nil || m.Format < 1 {
		return fmt.Errorf("data directory %s: %s is damaged (expected {\"format\":%d,...}, found %.60q): restore it, or use another directory", path, markerName, dataFormat, body)
	}
	if m.Format > dataFormat {
		return fmt.Errorf("data directory %s was made by a newer version (format %d; this one knows up to %d): run that version, or use another directory", path, m.Format, dataFormat)
	}
	return nil
}

func checkEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != lockName && !strings.HasPrefix(e.Name(), tempPrefix) { // ours, from a start cut short
			return fmt.Errorf("data directory %s is not ours: expected an empty directory or one with %s, found %q: use another directory", path, markerName, e.Name())
		}
	}
	return nil
}

func lockDataDir(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock data directory: %w", err)
		}
		if time.Now().After(deadline) {
			owner, _ := io.ReadAll(io.LimitReader(f, 32))
			f.Close()
			return nil, fmt.Errorf("data directory %s is in use by another control plane (process %s): stop that, or use another directory", path, strings.TrimSpace(string(owner)))
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // for the message above; the lock itself does not need it
	}
	return f, nil
}

// writeFile replaces path as a whole: readers see the old content or the new.
func writeFile(path string, body []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	err = errors.Join(f.Chmod(mode), write(f, body), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func write(w io.Writer, body []byte) error {
	_, err := w.Write(body)
	return err
}
