package keadm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// table is a metav1.Table with what is printed of it.
type table struct {
	Kind              string                         `json:"kind"`
	ColumnDefinitions []metav1.TableColumnDefinition `json:"columnDefinitions"`
	Rows              []struct {
		Cells  []any `json:"cells"`
		Object struct {
			Metadata struct {
				Name      string            `json:"name"`
				Namespace string            `json:"namespace"`
				Labels    map[string]string `json:"labels"`
			} `json:"metadata"`
		} `json:"object"`
	} `json:"rows"`
}

func readTable(b []byte) (*table, error) {
	t := &table{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // a count is no fraction
	if err := d.Decode(t); err != nil || t.Kind != "Table" {
		return nil, fmt.Errorf("expected a table of edgecore's API, found %.100q: %w", b, err)
	}
	return t, nil
}

// A tablePrinter writes tables as kubectl does.
type tablePrinter struct {
	wide, names, labels bool
	// headers: the heading is still to come.
	headers bool
	// spaces: the namespace is the first column.
	spaces bool
	// title, if there is one, comes before each name with a slash.
	title string
	// columns are the latest table's: those of a watch come once. widths are of all lines so far.
	columns []metav1.TableColumnDefinition
	widths  []int
}

func (p *tablePrinter) print(out io.Writer, t *table) error {
	if len(t.ColumnDefinitions) > 0 {
		p.columns = t.ColumnDefinitions
	}
	var lines [][]string
	if p.headers && !p.names {
		p.headers = false
		lines = append(lines, p.cells("NAMESPACE", "LABELS", func(i int) string { return strings.ToUpper(p.columns[i].Name) }))
	}
	for _, r := range t.Rows {
		m := r.Object.Metadata
		if p.names {
			lines = append(lines, []string{p.title + "/" + m.Name})
			continue
		}
		shown := "<none>"
		if len(m.Labels) > 0 {
			shown = labels.FormatLabels(m.Labels)
		}
		lines = append(lines, p.cells(m.Namespace, shown, func(i int) string {
			text := ""
			if i < len(r.Cells) && r.Cells[i] != nil {
				text, _, _ = strings.Cut(fmt.Sprint(r.Cells[i]), "\n")
			}
			if i == 0 && p.title != "" {
				return p.title + "/" + text
			}
			return text
		}))
	}
	_, err := io.WriteString(out, p.align(lines))
	return err
}

// align puts cells below each other, three blanks apart and no column narrower than six.
func (p *tablePrinter) align(lines [][]string) string {
	for _, cells := range lines {
		for i, c := range cells {
			if i == len(p.widths) {
				p.widths = append(p.widths, 6)
			}
			p.widths[i] = max(p.widths[i], utf8.RuneCountInString(c)+3)
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		for i, c := range cells {
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", p.widths[i]-utf8.RuneCountInString(c)))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// cells puts a line together.
func (p *tablePrinter) cells(space, labels string, cell func(i int) string) []string {
	var out []string
	if p.spaces {
		out = append(out, space)
	}
	for i, c := range p.columns {
		if p.wide || c.Priority == 0 {
			out = append(out, cell(i))
		}
	}
	if p.labels {
		out = append(out, labels)
	}
	return out
}
