package main

import (
	"io"
	"strings"
	"testing"
)

// TestTheCommandThatRepeatsASeed is the one that makes it run the same again, and nonsense is refused.
func TestTheCommandThatRepeatsASeed(t *testing.T) {
	for args, want := range map[string]string{
		"-seed 3 -slots 5":               "make chaos SEED=3 SLOTS=5",
		"-seed 3":                        "make chaos SEED=3 SLOTS=0",
		"-seed 3 -slots 2 -only a,lossy": "make chaos SEED=3 SLOTS=2 ONLY=a,lossy",
	} {
		o, err := parse(strings.Fields(args), io.Discard)
		if err != nil || o.again(3) != want {
			t.Errorf("%s: %q, %v; expected %q", args, o.again(3), err, want)
		}
	}
	for _, args := range []string{"-seed 0", "-seeds 0", "-slots -1", "more", "-only"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
