package scenario

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
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

func TestResultsAreSavedWholeAndOneScenarioTakesNoOthersPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	limit := 3.0
	figures := []Figure{{What: "w", Unit: "u", Value: 1.5, Limit: &limit, Promise: true, Note: "a|b"}}
	for _, r := range []*Result{
		{Commit: "old", Nodes: 5, Protocol: "websocket", Outcomes: []Outcome{{Scenario: "storm", Figures: figures}, {Scenario: "idle", Figures: figures}}},
		{Commit: "new", Nodes: 5, Protocol: "websocket", Outcomes: []Outcome{{Scenario: "storm", Figures: figures, Profile: "flat"}}},
		{Commit: "new", Nodes: 5, Protocol: "quic", Outcomes: []Outcome{{Scenario: "storm"}}},
		{Commit: "new", Nodes: 5, Protocol: "websocket", Listeners: true, Outcomes: []Outcome{{Scenario: "storm"}}},
		{Commit: "tiny", Nodes: 5, Protocol: "websocket", Small: true, Outcomes: []Outcome{{Scenario: "storm", Figures: figures}}},
	} {
		if err := r.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	back, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range back {
		got = append(got, fmt.Sprint(r.Outcomes[0].Scenario, " ", r.Protocol, " ", r.Commit, " ", r.Listeners, r.Small))
	}
	if len(got) != 5 || got[0] != "idle websocket old false false" || got[4] != "storm quic new false false" || !slices.Contains(got, "storm websocket new false false") {
		t.Errorf("expected five, idle first and the newer storm in the place of the older, found %q", got)
	}
	if f := back[0].Outcomes[0].Figures[0]; *f.Limit != 3 || !f.Promise || f.Value != 1.5 {
		t.Errorf("expected what was saved, found %+v", f)
	}

	page := filepath.Join(dir, "page.md")
	if err := os.WriteFile(page, []byte("before\n"+docsBegin+"\nstale\n"+docsEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteDocs(page, back); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n", "\nafter\n", "**idle**, 5 edges over websocket; commit old", "with a port for each kubelet", "| w | 1.50 | <= 3 | u | met, promise | a\\|b |", "```\nflat\n```"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("expected %q in the page, found:\n%s", want, text)
		}
	}
	for _, never := range []string{"stale", "tiny"} {
		if strings.Contains(string(text), never) {
			t.Errorf("expected no %q in the page, found:\n%s", never, text)
		}
	}
	if err := os.WriteFile(page, []byte(docsBegin), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteDocs(page, back); err == nil || !strings.Contains(err.Error(), "found not both") {
		t.Errorf("a page without its end: %v", err)
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
