package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Figure is one measured quantity.
type Figure struct {
	Row  string `json:"row"`
	What string `json:"what"`
	Unit string `json:"unit"`
	// Limit is the target, at most; nil for a figure that only explains another.
	Limit *float64 `json:"limit,omitempty"`
	// Values are the repetitions, in the order in which they were taken.
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Note   string    `json:"note,omitempty"`
	// Load is the machine's load average over 1 minute when the figure was complete.
	Load  string `json:"load"`
	Quick bool   `json:"quick,omitempty"` // taken with short rests: a trial
}

// atMost is a target.
func atMost(limit float64) *float64 { return &limit }

// summarize fills in what follows from Values.
func (f *Figure) summarize() {
	sorted := slices.Sorted(slices.Values(f.Values))
	f.Min, f.Max, f.Median = sorted[0], sorted[len(sorted)-1], percentile(sorted, 50)
}

// percentile of sorted values: the mean of the two middle ones where the median falls between them, else the value at
// the nearest rank.
func percentile(sorted []float64, p int) float64 {
	n := len(sorted)
	if p == 50 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	rank := int(math.Ceil(float64(p) / 100 * float64(n)))
	return sorted[max(rank, 1)-1]
}

// verdict says whether the target is met, for people.
func (f *Figure) verdict() string {
	switch {
	case f.Limit == nil:
		return ""
	case f.Median <= *f.Limit:
		return "met"
	}
	return "MISSED"
}

func (f *Figure) target() string {
	if f.Limit == nil {
		return ""
	}
	return "<= " + number(*f.Limit)
}

func (f *Figure) spread() string {
	if len(f.Values) < 2 {
		return ""
	}
	return number(f.Min) + " to " + number(f.Max)
}

// number shows three significant digits, and whole numbers whole.
func number(v float64) string {
	if v == math.Trunc(v) || math.Abs(v) >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2
	if math.Abs(v) >= 100 {
		digits = 0
	} else if math.Abs(v) >= 10 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// Report is the content of the JSON file.
type Report struct {
	Machine Machine  `json:"machine"`
	Figures []Figure `json:"figures"`
	path    string
}

// loadReport reads the file of an earlier run, so that a run of some rows keeps the figures of the others.
func loadReport(path string) (*Report, error) {
	r := &Report{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the earlier figures: %w", err)
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read the earlier figures: %s: %w; remove the file to start anew", path, err)
	}
	return r, nil
}

// forget drops the figures of a row that is about to be measured.
func (r *Report) forget(row string) {
	r.Figures = slices.DeleteFunc(r.Figures, func(f Figure) bool { return f.Row == row })
}

// save writes the file in one step, with the rows in the order of the table.
func (r *Report) save() error {
	order := rowNames()
	slices.SortStableFunc(r.Figures, func(a, b Figure) int { return slices.Index(order, a.Row) - slices.Index(order, b.Row) })
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.WriteFile(r.path+".new", append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	return nil
}

// table shows all figures to a person.
func (r *Report) table(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", r.Machine)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROW\tWHAT\tTARGET\tMEDIAN\tSPREAD\tN\tUNIT\tVERDICT\tLOAD")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", f.Row, f.What, f.target(), number(f.Median), f.spread(), len(f.Values), f.Unit, f.verdict()+trial(f), f.Load)
	}
	w.Flush()
	for _, f := range r.Figures {
		if f.Note != "" {
			fmt.Fprintf(out, "%s, %s: %s\n", f.Row, f.What, f.Note)
		}
	}
	missed := 0
	for _, f := range r.Figures {
		if f.verdict() == "MISSED" {
			missed++
		}
	}
	fmt.Fprintf(out, "%d figures, %d miss their target; all values are in %s\n", len(r.Figures), missed, r.path)
}

func trial(f Figure) string {
	if f.Quick {
		return " (trial)"
	}
	return ""
}

// The markers between which writeDocs puts the figures.
const (
	docsBegin = "<!-- figures: written by bench --write-docs -->"
	docsEnd   = "<!-- figures end -->"
)

// writeDocs replaces what stands between the markers of a Markdown page.
func (r *Report) writeDocs(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write the figures into a page: %w", err)
	}
	before, rest, found := bytes.Cut(page, []byte(docsBegin))
	_, after, closed := bytes.Cut(rest, []byte(docsEnd))
	if !found || !closed {
		return fmt.Errorf("write the figures into %s: expected the lines %q and %q, found not both: put them where the figures belong", path, docsBegin, docsEnd)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s\n\n", docsBegin, r.Machine)
	b.WriteString("| row | what | target | median | spread | n | unit | | load |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %d | %s | %s | %s |\n", f.Row, f.What, f.target(), number(f.Median), f.spread(), len(f.Values), f.Unit, f.verdict()+trial(f), f.Load)
	}
	b.WriteString("\n")
	for _, f := range r.Figures {
		if f.Note != "" {
			fmt.Fprintf(&b, "- %s: %s\n", f.What, f.Note)
		}
	}
	b.WriteString("\n" + docsEnd)
	if err := os.WriteFile(path, slices.Concat(before, []byte(b.String()), after), 0o644); err != nil {
		return fmt.Errorf("write the figures into a page: %w", err)
	}
	return nil
}
