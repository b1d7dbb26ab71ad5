package chaos

import (
	"slices"
	"strings"
	"testing"
)

// TestEveryMutantFollowsTheCode: what it takes away is still there, and the faults that are to notice exist.
func TestEveryMutantFollowsTheCode(t *testing.T) {
	for _, m := range Mutants() {
		files, err := m.files("../..")
		if err != nil || len(files) == 0 {
			t.Errorf("%s changes %d files: %v", m.Name, len(files), err)
		}
		for _, f := range m.Faults {
			if !slices.Contains(Names(), f) {
				t.Errorf("%s is to be noticed by %s, which is no fault", m.Name, f)
			}
		}
	}
	if _, err := (Edit{File: "f.go", From: "a", To: "b"}).apply("a a"); err == nil || !strings.Contains(err.Error(), "f.go") || !strings.Contains(err.Error(), "2 times") {
		t.Errorf("a text that is there twice: %v, expected file and number", err)
	}
}
