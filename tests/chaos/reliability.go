package chaos

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The generated part of docs/reliability.md is between these lines.
const (
	tableBegins = "<!-- The table is written by `make chaos-docs` from the results of runs. -->"
	tableEnds   = "<!-- End of the table. -->"
)

// row is what all runs say of one fault.
type row struct {
	runs, failed             int
	restarted, lost, doubled int
	rests                    []float64
}

// rows gathers them. A slot's cost is told of each of its faults.
func rows(results []Result) map[string]*row {
	all := map[string]*row{}
	for _, r := range results {
		for _, s := range r.Slots {
			for _, p := range s.Faults {
				f := all[p.Fault]
				if f == nil {
					f = &row{}
					all[p.Fault] = f
				}
				f.runs++
				f.restarted += s.Cost.Restarted
				f.lost += s.Cost.Lost
				f.doubled += s.Cost.Doubled
				if s.Failed {
					f.failed++
				} else {
					f.rests = append(f.rests, s.Rest)
				}
			}
		}
	}
	return all
}

// Table is the Markdown of all faults with what the results say of them.
func Table(results []Result) string {
	var b strings.Builder
	seeds, failed := map[uint64]bool{}, 0
	for _, r := range results {
		seeds[r.Seed] = true
		if r.Failure != "" {
			failed++
		}
	}
	fmt.Fprintf(&b, "%d runs of %d seeds, whole or short; %d of them broke a promise or did not come to rest.\n\n", len(results), len(seeds), failed)
	b.WriteString("| fault | what happens | what we promise | runs | failed | containers restarted | events lost | doubled | at rest after, median / longest (s) |\n|---|---|---|---|---|---|---|---|---|\n")
	of := rows(results)
	for _, f := range Faults() {
		r := of[f.Name]
		if r == nil {
			r = &row{}
		}
		rest := "–"
		if len(r.rests) > 0 {
			slices.Sort(r.rests)
			rest = fmt.Sprintf("%.1f / %.1f", r.rests[len(r.rests)/2], r.rests[len(r.rests)-1])
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %d | %d | %d | %d | %d | %s |\n", f.Name, f.What, f.Promise, r.runs, r.failed, r.restarted, r.lost, r.doubled, rest)
	}
	return b.String()
}

// WriteDocs puts the table of the results into a page, between its markers.
func WriteDocs(page string, results []Result) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	head, rest, ok := bytes.Cut(text, []byte(tableBegins))
	_, tail, closed := bytes.Cut(rest, []byte(tableEnds))
	if !ok || !closed {
		return fmt.Errorf("write the table: expected the lines %q and %q in %s", tableBegins, tableEnds, page)
	}
	out := fmt.Sprintf("%s%s\n\n%s\n%s%s", head, tableBegins, Table(results), tableEnds, tail)
	if err := os.WriteFile(page, []byte(out), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
