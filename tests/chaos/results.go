package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Result is what came of one seed: a line of JSON.
type Result struct {
	Seed     uint64    `json:"seed"`
	Commit   string    `json:"commit,omitempty"`
	Short    bool      `json:"short,omitempty"`
	Begun    time.Time `json:"begun"`
	Took     float64   `json:"took"` // seconds
	Protocol string    `json:"protocol"`
	Slots    []Slot    `json:"slots"`
	Before   *use      `json:"before,omitempty"`
	After    *use      `json:"after,omitempty"`
	Failure  string    `json:"failure,omitempty"`
	Timeline string    `json:"timeline,omitempty"`
}

// Slot is what came of one slot.
type Slot struct {
	Faults []Planned `json:"faults"`
	// Rest is how many seconds after its last fault was over the system was at rest, with both sides equal.
	Rest float64 `json:"rest"`
	Cost account `json:"cost"`
	// Failed: it did not come to rest, or broke a promise.
	Failed bool `json:"failed,omitempty"`
}

// Append adds a result to a file of them.
func (r Result) Append(file string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a result: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep a result: %w", err)
	}
	return nil
}

// Results reads a file of them; one that is not there has none. A last line that a killed run left unfinished is skipped.
func Results(file string) ([]Result, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the results: %w", err)
	}
	defer f.Close()
	var all []Result
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	var broken error
	for n := 1; lines.Scan(); n++ {
		if broken != nil {
			return nil, broken
		}
		var r Result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			broken = fmt.Errorf("read the results: %s: line %d: %w", file, n, err)
			continue
		}
		all = append(all, r)
	}
	return all, lines.Err()
}
