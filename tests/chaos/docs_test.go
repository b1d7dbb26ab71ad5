package chaos

import (
	"os"
	"strings"
	"testing"
)

// TestThePageShowsTheResults: its table is what the results beside it make, and nobody's words.
func TestThePageShowsTheResults(t *testing.T) {
	results, err := Results("../../docs/reliability.jsonl")
	if err != nil || len(results) == 0 {
		t.Fatalf("%d results: %v", len(results), err)
	}
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), Table(results)) {
		t.Error("docs/reliability.md shows another table than docs/reliability.jsonl makes: run `make chaos-docs`")
	}
}
