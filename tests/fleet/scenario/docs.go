package scenario

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The markers between which WriteDocs puts the figures.
const (
	docsBegin = "<!-- fleet: written by fleet --write-docs -->"
	docsEnd   = "<!-- fleet end -->"
)

// Load reads the results that Save wrote into a directory, in the order of the scenarios.
func Load(dir string) ([]*Result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read the results: %w", err)
	}
	var all []*Result
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read the results: %w", err)
		}
		r := &Result{}
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("read the results in %s: %w", f, err)
		}
		if len(r.Outcomes) != 1 {
			return nil, fmt.Errorf("read the results: expected those of one scenario in %s, found %d", f, len(r.Outcomes))
		}
		all = append(all, r)
	}
	order := Names()
	slices.SortFunc(all, func(a, b *Result) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Outcomes[0].Scenario), slices.Index(order, b.Outcomes[0].Scenario)),
			-cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Nodes, b.Nodes))
	})
	return all, nil
}

// WriteDocs replaces what stands between the markers of a Markdown page by the results of full runs.
func WriteDocs(page string, results []*Result) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("write the figures into a page: %w", err)
	}
	before, rest, found := bytes.Cut(text, []byte(docsBegin))
	_, after, closed := bytes.Cut(rest, []byte(docsEnd))
	if !found || !closed {
		return fmt.Errorf("write the figures into %s: expected the lines %q and %q, found not both: put them where the figures belong", page, docsBegin, docsEnd)
	}
	var b strings.Builder
	b.WriteString(docsBegin + "\n\n")
	for _, r := range results {
		if !r.Small {
			r.markdown(&b)
		}
	}
	b.WriteString(docsEnd)
	if err := os.WriteFile(page, slices.Concat(before, []byte(b.String()), after), 0o644); err != nil {
		return fmt.Errorf("write the figures into a page: %w", err)
	}
	return nil
}

// markdown shows the outcome of one scenario.
func (r *Result) markdown(b *strings.Builder) {
	o := r.Outcomes[0]
	with := ""
	if r.Listeners {
		with = ", with a port for each kubelet"
	}
	fmt.Fprintf(b, "**%s**, %d edges over %s%s; commit %.12s, %s, %s, %.0f s, load average at the end %s\n\n", o.Scenario, r.Nodes, r.Protocol, with, r.Commit,
		r.At.Format("2006-01-02"), r.Machine, o.Seconds, o.Load)
	b.WriteString("| what | value | limit | unit | | how |\n|---|---|---|---|---|---|\n")
	for _, f := range o.Figures {
		limit, verdict := f.verdict()
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", f.What, number(f.Value), limit, f.Unit, verdict, strings.ReplaceAll(f.Note, "|", "\\|"))
	}
	b.WriteString("\n")
	if o.Failure != "" {
		fmt.Fprintf(b, "It did not come to its end: %s\n\n", o.Failure)
	}
	if o.Profile != "" {
		fmt.Fprintf(b, "CloudCore's processor time:\n\n```\n%s\n```\n\n", o.Profile)
	}
}
