package keadm

import (
	"errors"
	"fmt"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/util/jsonpath"
)

// fieldPath reads a path as kubectl takes it, with braces and the first dot or without: .metadata.name is metadata.name.
// whole has both.
func fieldPath(text string) (path *jsonpath.JSONPath, whole string, err error) {
	bare := text
	if inner, ok := strings.CutPrefix(text, "{"); ok {
		if bare, ok = strings.CutSuffix(inner, "}"); !ok {
			bare = ""
		}
	}
	bare = strings.TrimPrefix(bare, ".")
	if bare == "" || strings.ContainsAny(bare, "{}") {
		return nil, "", fmt.Errorf("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}', found %q", text)
	}
	path, whole = jsonpath.New("field").AllowMissingKeys(true), "{."+bare+"}"
	if err := path.Parse(whole); err != nil {
		return nil, "", fmt.Errorf("%s: %w", text, err)
	}
	return path, whole, nil
}

// columnPrinter writes a line for each object. It keeps to the writer that it had first.
type columnPrinter struct {
	heads []string
	paths []*jsonpath.JSONPath
	// headed: no heading is to come.
	headed bool
	lines  interface {
		io.Writer
		Flush() error
	}
}

// columnsOf reads HEAD:PATH,HEAD:PATH....
func columnsOf(spec string, headers bool) (*columnPrinter, error) {
	p := &columnPrinter{headed: !headers}
	for part := range strings.SplitSeq(spec, ",") {
		head, path, ok := strings.Cut(part, ":")
		if !ok {
			return nil, fmt.Errorf("unexpected custom-columns spec: %s, expected <header>:<json-path-expr>", part)
		}
		if err := p.add(head, path); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// columnsOfFile reads a line of heads and a line of as many paths. Its heads are written also without headers, as kubectl
// does.
func columnsOfFile(text string) (*columnPrinter, error) {
	first, rest, _ := strings.Cut(text, "\n")
	second, _, _ := strings.Cut(rest, "\n")
	heads, paths := strings.Fields(first), strings.Fields(second)
	if len(heads) == 0 || len(paths) == 0 {
		return nil, errors.New("expected a line of headers and a line of column specs, both with blanks between them")
	}
	if len(heads) != len(paths) {
		return nil, fmt.Errorf("number of headers (%d) and field specifications (%d) don't match", len(heads), len(paths))
	}
	p := &columnPrinter{}
	for i, head := range heads {
		if err := p.add(head, paths[i]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *columnPrinter) add(head, path string) error {
	parsed, _, err := fieldPath(path)
	if err != nil {
		return err
	}
	p.heads, p.paths = append(p.heads, head), append(p.paths, parsed)
	return nil
}

// PrintObj implements printers.ResourcePrinter.
func (p *columnPrinter) PrintObj(o runtime.Object, out io.Writer) error {
	if p.lines == nil {
		p.lines = printers.GetNewTabWriter(out)
	}
	if !p.headed {
		p.headed = true
		fmt.Fprintln(p.lines, strings.Join(p.heads, "\t"))
	}
	if _, ok := o.(*metav1.WatchEvent); ok {
		content, err := contentOf(o)
		if err != nil {
			return err
		}
		o = &unstructured.Unstructured{Object: content}
	}
	for _, item := range itemsOf(o) {
		cells, err := p.cells(item.Object)
		if err != nil {
			return err
		}
		fmt.Fprintln(p.lines, strings.Join(cells, "\t"))
	}
	return p.lines.Flush()
}

// cells are an object's, with all that a path finds.
func (p *columnPrinter) cells(content map[string]any) (out []string, err error) {
	for _, path := range p.paths {
		found, err := path.FindResults(content)
		if err != nil {
			return nil, err
		}
		var values []string
		for _, list := range found {
			for _, v := range list {
				values = append(values, printers.EscapeTerminal(fmt.Sprint(v.Interface())))
			}
		}
		if len(values) == 0 {
			values = []string{"<none>"}
		}
		out = append(out, strings.Join(values, ","))
	}
	return out, nil
}
