package keadm

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// formats are what -o takes.
var formats = []string{"json", "yaml"}

// outputFlag adds -o to a command.
func outputFlag(c *cobra.Command, into *string) {
	c.Flags().StringVarP(into, "output", "o", "", "json or yaml, for programs; without it, text for people")
	choices(c, "output", formats...)
}

// progressOf returns where a command that changes something tells how it goes: with -o that is standard error, and
// standard output has one document, the result, once all is done. A format that is not known is said before anything is.
func progressOf(w IO, format string) (IO, error) {
	if format == "" {
		return w, nil
	}
	w.Out = w.Err
	return w, oneOf("output", format, formats)
}

// showResult writes a result for programs; people have read all of it.
func showResult(w IO, format string, value any) error {
	if format == "" {
		return nil
	}
	return show(w.Out, format, value, nil)
}

// show writes a value for programs, or calls table.
func show(out io.Writer, format string, value any, table func(w io.Writer)) error {
	switch format {
	case "":
		t := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
		table(t)
		return t.Flush()
	case "json":
		b, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, string(b))
		return err
	case "yaml":
		b, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	return fmt.Errorf("%w: --output: expected json or yaml, found %q", errUsage, format)
}

// row writes the cells of a table.
func row(w io.Writer, cells ...any) {
	var s []string
	for _, c := range cells {
		s = append(s, fmt.Sprint(c))
	}
	fmt.Fprintln(w, strings.Join(s, "\t"))
}
