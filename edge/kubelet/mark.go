package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	markFile   = "kubelet-starting.json"
	reasonFile = "kubelet-starting.reason"

	// maxReason bounds what is kept of the kubelet's last words, in bytes.
	maxReason = 2048

	// firstDelay and maxDelay bound the wait before the next try: 1 s after the first failed one, doubling.
	firstDelay = time.Second
	maxDelay   = 5 * time.Minute

	// sparedKills is how often in a row a process may be killed while its kubelet starts before that counts as a failed
	// start: by then it may be the kubelet's own appetite that the kernel ends.
	sparedKills = 3
)

// A mark is the durable record that a kubelet is starting. Found by the next process, it means that the last one ended
// before its kubelet was stable.
type mark struct {
	// Attempts counts the tries since the kubelet was last stable, the one that wrote the mark included.
	Attempts int `json:"attempts"`
	// Kills counts the tries in a row, before that one, whose process was killed.
	Kills int `json:"kills,omitempty"`
	// Boot is the kernel's boot id: a mark of an earlier boot tells of a power cut, not of the kubelet.
	Boot string `json:"boot"`
	// Time is when the try began.
	Time time.Time `json:"time"`
}

// delayAfter returns how long to wait before the next try once attempts tries in a row have ended the process.
func delayAfter(attempts int) time.Duration {
	if attempts <= 0 {
		return 0
	}
	d := firstDelay
	for range attempts - 1 {
		d *= 2
		if d >= maxDelay {
			return maxDelay
		}
	}
	return d
}

// marks keeps the mark and the reason in one directory. It belongs to the goroutine of Start, except for note.
type marks struct {
	dir  string
	boot string
	// killed says that the former process did not end by itself.
	killed bool
	// kills is what failed found: the next mark's Kills.
	kills int

	mu     sync.Mutex // guards reason, which the kubelet's log lines reach from any goroutine
	reason *os.File   // open from set to clear
}

// failed returns the tries that failed since the kubelet was last stable, and the last one's last words. An unreadable
// mark counts as one try: whatever wrote it did not finish. A process that was killed tells nothing of its kubelet, unless
// that happens again and again.
func (m *marks) failed() (attempts int, reason string) {
	data, err := os.ReadFile(filepath.Join(m.dir, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ""
	}
	var found mark
	if err == nil {
		err = json.Unmarshal(data, &found)
	}
	if err != nil {
		return 1, fmt.Sprintf("the mark of the last start cannot be read: %v", err)
	}
	if found.Boot != m.boot {
		return 0, ""
	}
	if m.killed {
		if m.kills = found.Kills + 1; m.kills <= sparedKills {
			return max(found.Attempts-1, 0), ""
		}
		return max(found.Attempts, 1), fmt.Sprintf("the process was killed %d times in a row while the kubelet started", m.kills)
	}
	words, _ := os.ReadFile(filepath.Join(m.dir, reasonFile)) // no reason is an answer too
	if reason = strings.TrimSpace(string(words)); reason == "" {
		return max(found.Attempts, 1), "the process ended without a word from the kubelet"
	}
	reason = "the kubelet's last error: " + reason
	return max(found.Attempts, 1), reason
}

// set writes the mark durably and opens the file for the reason. It returns only once both would survive a power cut.
func (m *marks) set(attempts int, now time.Time) error {
	data, err := json.Marshal(mark{Attempts: attempts, Kills: m.kills, Boot: m.boot, Time: now})
	if err != nil {
		return fmt.Errorf("encode the start mark: %w", err)
	}
	reason, err := os.OpenFile(filepath.Join(m.dir, reasonFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the start reason: %w", err)
	}
	m.mu.Lock()
	m.reason = reason
	m.mu.Unlock()
	return writeDurably(filepath.Join(m.dir, markFile), data)
}

// note keeps the kubelet's latest words until clear. A process exit does not lose them: the page cache is the kernel's.
func (m *marks) note(words string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reason == nil {
		return
	}
	if len(words) > maxReason {
		words = words[:maxReason]
	}
	// Errors are of no use here: the process may be ending, and the mark counts without a reason.
	if _, err := m.reason.WriteAt([]byte(words), 0); err == nil {
		_ = m.reason.Truncate(int64(len(words)))
	}
}

// clear removes the mark: the kubelet is stable. attempts > 0 sets the mark back to that count instead.
func (m *marks) clear(attempts int, now time.Time) error {
	m.mu.Lock()
	if m.reason != nil {
		_ = m.reason.Close()
		m.reason = nil
	}
	m.mu.Unlock()
	if attempts > 0 {
		data, err := json.Marshal(mark{Attempts: attempts, Boot: m.boot, Time: now})
		if err != nil {
			return fmt.Errorf("encode the start mark: %w", err)
		}
		return writeDurably(filepath.Join(m.dir, markFile), data)
	}
	var errs []error
	for _, name := range []string{markFile, reasonFile} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the start mark: %w", err))
		}
	}
	return errors.Join(append(errs, syncDir(m.dir))...)
}

// writeDurably replaces path by data: the old content or the new is there after a power cut, never a part.
func writeDurably(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the start mark: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("write the start mark: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync the state directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the state directory: %w", err)
	}
	return nil
}
