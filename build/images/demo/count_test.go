package main

import (
	"errors"
	"strings"
	"testing"
)

// reader takes so many lines and then goes away.
type reader struct {
	strings.Builder
	lines int
}

func (r *reader) Write(p []byte) (int, error) {
	if r.lines == 0 {
		return 0, errors.New("gone")
	}
	r.lines--
	return r.Builder.Write(p)
}

// TestCountLeavesNoNumberOut, and ends when nobody reads.
func TestCountLeavesNoNumberOut(t *testing.T) {
	r := &reader{lines: 3}
	if code, err := run([]string{"count"}, r); code != 1 || err == nil || r.String() != "0\n1\n2\n" {
		t.Errorf("code %d, %v, wrote %q", code, err, r.String())
	}
}
