package keadm

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/util/jsonpath"
)

// objectFormats are those of -o that show objects and no tables. All from jsonpath on have an argument.
var objectFormats = []string{"name", "json", "yaml", "kyaml", "jsonpath", "jsonpath-as-json", "jsonpath-file", "custom-columns", "custom-columns-file"}

// format returns what writes objects as -o says, nil for tables.
func (f *getFlags) format() (printers.ResourcePrinter, error) {
	if f.output == "" || f.output == "wide" {
		return nil, nil
	}
	format, argument, with := strings.Cut(f.output, "=")
	wants := slices.Index(objectFormats, format) >= slices.Index(objectFormats, "jsonpath")
	switch {
	case !slices.Contains(objectFormats, format) || with && !wants:
		return nil, fmt.Errorf("%w: --output: expected one of wide, %s, found %q", errUsage, strings.Join(objectFormats, ", "), f.output)
	case wants && argument == "":
		return nil, fmt.Errorf("%w: --output: expected %s=..., found nothing behind it", errUsage, format)
	}
	if strings.HasSuffix(format, "-file") {
		b, err := os.ReadFile(argument)
		if err != nil {
			return nil, fmt.Errorf("--output: %w", err)
		}
		argument = string(b)
	}
	p, err := f.formatOf(format, argument)
	if err != nil {
		return nil, fmt.Errorf("%w: --output: %w", errUsage, err)
	}
	return p, nil
}

// formatOf returns the printer of a format that there is.
func (f *getFlags) formatOf(format, argument string) (p printers.ResourcePrinter, err error) {
	switch format {
	case "json":
		p = &printers.JSONPrinter{}
	case "yaml":
		p = &printers.YAMLPrinter{}
	case "kyaml":
		p = &printers.KYAMLPrinter{}
	case "name":
		return &printers.NamePrinter{}, nil
	case "custom-columns":
		return columnsOf(argument, !f.noHeaders)
	case "custom-columns-file":
		return columnsOfFile(argument)
	default:
		path := jsonpath.New("out").AllowMissingKeys(f.missingKeys)
		path.EnableJSONOutput(format == "jsonpath-as-json")
		if err := path.Parse(argument); err != nil {
			return nil, fmt.Errorf("error parsing jsonpath %s, %w", argument, err)
		}
		return &pathPrinter{argument, path}, nil
	}
	if !f.managedFields {
		p = &printers.OmitManagedFieldsPrinter{Delegate: p}
	}
	return p, nil
}

// pathPrinter writes what a JSONPath finds. cli-runtime's would show the whole object when it finds nothing, a Secret too.
type pathPrinter struct {
	text string
	path *jsonpath.JSONPath
}

// PrintObj implements printers.ResourcePrinter.
func (p *pathPrinter) PrintObj(o runtime.Object, out io.Writer) error {
	content, err := contentOf(o)
	if err != nil {
		return err
	}
	if err := p.path.Execute(out, content); err != nil {
		return fmt.Errorf("error executing jsonpath %q: %w", p.text, err)
	}
	return nil
}

// contentOf is what the paths of an expression go through: that of an object or a list, or of a change its type and object.
func contentOf(o runtime.Object) (map[string]any, error) {
	if event, ok := o.(*metav1.WatchEvent); ok {
		content, err := contentOf(event.Object.Object)
		return map[string]any{"type": event.Type, "object": content}, err
	}
	u, ok := o.(runtime.Unstructured)
	if !ok {
		return nil, fmt.Errorf("expected an object as the API sent it, found %T", o)
	}
	return u.UnstructuredContent(), nil
}

// printObjects writes one object as it is, or a List of all, as kubectl does.
func (f *getFlags) printObjects(w IO, there []found, single bool) error {
	if len(there) == 0 && (single || f.ignoreNotFound) {
		return nil
	}
	if single {
		return f.objects.PrintObj(there[0].object, w.Out)
	}
	all := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": ""}}}
	for _, one := range there {
		all.Items = append(all.Items, itemsOf(one.object)...)
	}
	if f.sortBy != "" && len(all.Items) > 0 {
		if err := inOrderOf(f.sortBy, all.Items, func(o unstructured.Unstructured) runtime.Object { return &o }); err != nil {
			return err
		}
	}
	return f.objects.PrintObj(all, w.Out)
}

// itemsOf are those of a list, or the object itself.
func itemsOf(o runtime.Object) []unstructured.Unstructured {
	switch o := o.(type) {
	case *unstructured.UnstructuredList:
		return o.Items
	case *unstructured.Unstructured:
		return []unstructured.Unstructured{*o}
	}
	return nil
}
