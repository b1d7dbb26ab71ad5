package keadm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// table is a metav1.Table with what is printed of it.
type table struct {
	Kind              string                         `json:"kind"`
	Metadata          metav1.ListMeta                `json:"metadata"`
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
	ResourceVersion string `json:"-"`
}

func readTable(b []byte) (*table, error) {
	t := &table{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // a count is no fraction
	if err := d.Decode(t); err != nil || t.Kind != "Table" {
		return nil, fmt.Errorf("expected a table of edgecore's API, found %.100q: %w", b, err)
	}
	t.ResourceVersion = t.Metadata.ResourceVersion
	return t, nil
}

// A tablePrinter writes tables as kubectl does.
type tablePrinter struct {
	wide, names, labels, headers bool
	// spaces: the namespace is the first column.
	spaces bool
	// title, if there is one, comes before each name with a slash.
	title string
	// columns are the latest table's: those of a watch come once.
	columns []metav1.TableColumnDefinition
}

func (p *tablePrinter) print(out io.Writer, t *table) error {
	if len(t.ColumnDefinitions) > 0 {
		p.columns = t.ColumnDefinitions
	}
	if p.names {
		for _, r := range t.Rows {
			fmt.Fprintf(out, "%s/%s\n", p.title, r.Object.Metadata.Name)
		}
		return nil
	}
	tw := tabwriter.NewWriter(out, 6, 4, 3, ' ', 0)
	if p.headers {
		line(tw, p.cells("NAMESPACE", "LABELS", func(i int) string { return strings.ToUpper(p.columns[i].Name) }))
	}
	for _, r := range t.Rows {
		m := r.Object.Metadata
		shown := "<none>"
		if len(m.Labels) > 0 {
			shown = labels.FormatLabels(m.Labels)
		}
		line(tw, p.cells(m.Namespace, shown, func(i int) string {
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
	return tw.Flush()
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

// line writes cells. The last one ends a line without blanks.
func line(w io.Writer, cells []string) {
	for len(cells) > 0 && cells[len(cells)-1] == "" {
		cells = slices.Delete(cells, len(cells)-1, len(cells))
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}
