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

// outputFlag adds -o to a command.
func outputFlag(c *cobra.Command, into *string) {
	c.Flags().StringVarP(into, "output", "o", "", "json or yaml, for programs; without it, text for people")
	choices(c, "output", "json", "yaml")
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
