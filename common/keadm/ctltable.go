package keadm

import (
	"bytes"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
)

// decode reads what the API answered: an object, a list or a table.
func decode(b []byte) (runtime.Object, error) {
	o, err := runtime.Decode(unstructured.UnstructuredJSONScheme, b)
	if err != nil {
		return nil, fmt.Errorf("expected an object of edgecore's API, found %.100q: %w", b, err)
	}
	return o, nil
}

// readTable returns a table with the objects of its rows, for their labels and for what it is sorted by.
func readTable(o runtime.Object) (*metav1.Table, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok || u.GetKind() != "Table" {
		return nil, fmt.Errorf("expected a table of edgecore's API, found %s", o.GetObjectKind().GroupVersionKind())
	}
	t := &metav1.Table{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, t); err != nil {
		return nil, fmt.Errorf("expected a table of edgecore's API: %w", err)
	}
	for i := range t.Rows {
		row := &t.Rows[i].Object
		if len(row.Raw) == 0 {
			continue
		}
		var err error
		if row.Object, err = decode(row.Raw); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// sortRows sorts a table, if it is to be sorted.
func (f *getFlags) sortRows(t *metav1.Table) error {
	if f.sortBy == "" || len(t.Rows) == 0 {
		return nil
	}
	return inOrderOf(f.sortBy, t.Rows, func(r metav1.TableRow) runtime.Object { return r.Object.Object })
}

// tablePrinter is kubectl's. titled: each name has its kind before it.
func (f *getFlags) tablePrinter(k kind, titled bool) printers.ResourcePrinter {
	return printers.NewTablePrinter(printers.PrintOptions{
		Kind: k.group(), WithKind: titled || f.showKind, WithNamespace: f.all && k.Namespaced,
		Wide: f.output == "wide", NoHeaders: f.noHeaders, ShowLabels: f.showLabels, ColumnLabels: f.columns,
	})
}

// printTables prints what was asked for of one kind as one table, of several kinds one below another, each with its own
// heading. It reports whether there was anything.
func (f *getFlags) printTables(out io.Writer, there []found) (written bool, err error) {
	various := false
	for _, one := range there {
		various = various || one.kind.group() != there[0].kind.group()
	}
	for len(there) > 0 {
		k := there[0].kind
		var group bytes.Buffer
		lines, p := printers.GetNewTabWriter(&group), f.tablePrinter(k, various)
		for ; len(there) > 0 && there[0].kind.group() == k.group(); there = there[1:] {
			t, err := readTable(there[0].object)
			if err != nil {
				return written, err
			}
			if err := f.sortRows(t); err != nil {
				return written, err
			}
			if err := p.PrintObj(t, lines); err != nil {
				return written, err
			}
		}
		if err := lines.Flush(); err != nil {
			return written, err
		}
		if written && group.Len() > 0 && !f.noHeaders {
			fmt.Fprintln(out)
		}
		written = written || group.Len() > 0
		if _, err := group.WriteTo(out); err != nil {
			return written, err
		}
	}
	return written, nil
}
