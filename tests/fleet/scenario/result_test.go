package scenario

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLimitsThatAreMissedAreCounted(t *testing.T) {
	limit := 2.0
	r := &Result{Outcomes: []Outcome{{Scenario: "s", Failure: "it broke", Figures: []Figure{
		{What: "free", Value: 9, Note: "a remark"},
		{What: "met", Value: 2, Limit: &limit, Promise: true},
		{What: "late", Value: 2.1, Limit: &limit},
		{What: "broken", Value: math.NaN(), Limit: &limit, Promise: true},
	}}}}
	if all, promises := r.Missed(); all != 2 || promises != 1 {
		t.Errorf("expected two missed limits, one of a promise, found %d and %d", all, promises)
	}
	var out bytes.Buffer
	r.Outcomes[0].Table(&out)
	for _, want := range []string{"late", "MISSED\n", "MISSED, promise", "met, promise", "free: a remark", "FAILED: it broke"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("expected %q in the table, found:\n%s", want, out.String())
		}
	}
}

func TestResultsAreSavedWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "fleet.json")
	limit := 3.0
	r := &Result{Commit: "c", Nodes: 5, Outcomes: []Outcome{{Scenario: "s", Figures: []Figure{{What: "w", Unit: "u", Value: 1.5, Limit: &limit, Promise: true}}}}}
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil || len(back.Outcomes) != 1 || *back.Outcomes[0].Figures[0].Limit != 3 || !back.Outcomes[0].Figures[0].Promise || back.Nodes != 5 {
		t.Errorf("expected what was saved, found %+v, %v", back, err)
	}
}

func TestFiguresAreComputedFromWhatWasSeen(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	if p := []float64{percentile(values, 50), percentile(values, 99), percentile(values, 100)}; p[0] != 3 || p[1] != 5 || p[2] != 5 || !math.IsNaN(percentile(nil, 50)) {
		t.Errorf("expected 3, 5, 5 and none of nothing, found %v", p)
	}
	if s := slope([]float64{1, 2, 3}, []float64{10, 12, 14}); s != 2 {
		t.Errorf("expected a slope of 2, found %v", s)
	}
	now := parseSeries("# HELP a x\na{kind=\"pods\",code=\"200\"} 5\na{kind=\"nodes\",code=\"200\"} 2\nab 9\nnot a number\n")
	grown := now.since(series{`a{kind="pods",code="200"}`: 1})
	if n := []float64{grown.sum("a"), grown.sum("a", `kind="pods"`), grown.sum("a", `kind="pods"`, `code="404"`), grown.sum("a", `ode="200"`), grown.sum("ab")}; n[0] != 6 || n[1] != 4 || n[2] != 0 || n[3] != 0 || n[4] != 9 {
		t.Errorf("expected sums of 6, 4, 0, 0 and 9, found %v", n)
	}
	if l := label(`a{kind="pods",code="200"}`, "code"); l != "200" {
		t.Errorf("expected 200, found %q", l)
	}
}
