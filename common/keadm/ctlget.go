package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/rest"
)

// getFlags are what get is asked for.
type getFlags struct {
	ctlFlags
	output, labels, fields, sortBy, raw string
	columns                             []string
	watch, watchOnly, events            bool
	noHeaders, showLabels, showKind     bool
	managedFields, missingKeys          bool
	ignoreNotFound                      bool
	// objects prints those of a format other than tables; nil is a table.
	objects printers.ResourcePrinter
}

func newCtlGet(w IO) *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use:   "get KIND [NAME...] | get KIND/NAME...",
		Short: "List objects that this node holds, in kubectl's formats",
		Long: "List what this node holds of the cluster, and what its kubelet reported. KIND is a name as kubectl knows it (pods, po, pod;\n" +
			"several with commas). Flags and output are kubectl's, but that there is no go-template (keadm would be 18 MB larger; jsonpath\n" +
			"says the same), and nothing that reads manifests (-f, -k) or is for servers of many objects (--chunk-size, --server-print,\n" +
			"--subresource). A command line that is not understood has exit code 2.",
		Example: "  keadm ctl get pods -A -o wide\n" +
			"  keadm ctl get nodes,configmaps\n" +
			"  keadm ctl get po/web-0 -o yaml\n" +
			"  keadm ctl get po/web-0 -o jsonpath={.status.podIP}\n" +
			"  keadm ctl get pods -A --sort-by .status.startTime -o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[*].image\n" +
			"  keadm ctl get devices",
		Args: func(c *cobra.Command, args []string) error {
			if f.raw != "" {
				return usage(cobra.NoArgs)(c, args)
			}
			return expects("a kind, such as pods", cobra.MinimumNArgs(1))(c, args)
		},
	}
	f.inAny(c)
	fl := c.Flags()
	fl.StringVarP(&f.output, "output", "o", "", "wide, "+strings.Join(objectFormats, ", ")+", the last five with =EXPRESSION or =FILE; without it, a table")
	fl.StringVarP(&f.labels, "selector", "l", "", "only those with these labels, such as app=web,tier!=db")
	fl.StringVar(&f.fields, "field-selector", "", "only those with these fields, such as status.phase=Running")
	fl.StringVar(&f.sortBy, "sort-by", "", "in the order of this field, such as .metadata.creationTimestamp")
	fl.StringSliceVarP(&f.columns, "label-columns", "L", nil, "with a column for each of these labels, such as app,tier")
	fl.BoolVar(&f.showLabels, "show-labels", false, "with the labels as the last column")
	fl.BoolVar(&f.showKind, "show-kind", false, "with the kind before each name")
	fl.BoolVar(&f.noHeaders, "no-headers", false, "without the heading of the table")
	fl.BoolVar(&f.managedFields, "show-managed-fields", false, "with who set which field, in json and yaml")
	fl.BoolVar(&f.missingKeys, "allow-missing-template-keys", true, "take what an expression finds nowhere for empty, and not for an error")
	fl.BoolVar(&f.ignoreNotFound, "ignore-not-found", false, "say nothing of a name that is not there, and do not fail")
	fl.BoolVarP(&f.watch, "watch", "w", false, "go on, and show each change")
	fl.BoolVar(&f.watchOnly, "watch-only", false, "show changes alone, and not first what there is")
	fl.BoolVar(&f.events, "output-watch-events", false, "with what happened to an object: ADDED, MODIFIED or DELETED")
	fl.StringVar(&f.raw, "raw", "", "show what the API answers at this path, such as /version, as it is")
	choices(c, "output", append([]string{"wide"}, objectFormats...)...)
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if f.raw != "" {
			return g.showRaw(ctx, w, &f)
		}
		if err := f.check(); err != nil {
			return err
		}
		return g.get(ctx, w, &f, args)
	})
	return c
}

// check finds faults of the flags, and reads the format.
func (f *getFlags) check() (err error) {
	f.watch = f.watch || f.watchOnly
	switch {
	case f.showLabels && f.output != "" && f.output != "wide":
		return fmt.Errorf("%w: --show-labels option cannot be used with %s printer", errUsage, f.output)
	case f.events && !f.watch:
		return fmt.Errorf("%w: --output-watch-events option can only be used with --watch or --watch-only", errUsage)
	}
	if f.sortBy != "" {
		if _, _, err := fieldPath(f.sortBy); err != nil {
			return fmt.Errorf("%w: --sort-by: %w", errUsage, err)
		}
	}
	f.objects, err = f.format()
	return err
}

// get shows objects.
func (g *gateway) get(ctx context.Context, w IO, f *getFlags, args []string) error {
	list, err := g.wanted(args)
	if err != nil {
		return err
	}
	named := slices.ContainsFunc(list, func(o wanted) bool { return o.name != "" })
	switch {
	case f.all && slices.ContainsFunc(list, func(o wanted) bool { return o.name != "" && o.kind.Namespaced }):
		return fmt.Errorf("%w: a resource cannot be retrieved by name across all namespaces: say -n instead of -A", errUsage)
	case named && f.labels+f.fields != "":
		return fmt.Errorf("%w: name cannot be provided when a selector is specified", errUsage)
	case f.watch && len(list) > 1:
		return fmt.Errorf("%w: --watch: expected one kind, found %d", errUsage, len(list))
	case f.watch:
		return g.follow(ctx, w, f, list[0])
	}
	there, refused, err := g.answers(ctx, f, list)
	if err != nil {
		return err
	}
	if f.objects != nil {
		err = f.printObjects(w, there, named && len(list) == 1)
	} else {
		var written bool
		written, err = f.printTables(w.Out, there)
		if err == nil && !written && len(refused) == 0 && !f.ignoreNotFound {
			f.sayNothingFound(w, list)
		}
	}
	if err != nil || len(refused) == 0 {
		return err
	}
	return apiSaid(refused)
}

// sayNothingFound is what a person reads instead of a table without lines.
func (f *getFlags) sayNothingFound(w IO, list []wanted) {
	f.none(w, slices.ContainsFunc(list, func(o wanted) bool { return !o.kind.Namespaced }))
}

// A found is what the API answered: an object, a list or a table.
type found struct {
	kind   kind
	object runtime.Object
}

// answers asks for each, and returns those that are there with what came. As with kubectl, one that is refused does not
// keep the others from being shown.
func (g *gateway) answers(ctx context.Context, f *getFlags, list []wanted) (there []found, refused []error, err error) {
	for _, one := range list {
		o, err := g.ask(ctx, f, one)
		var status apierrors.APIStatus
		switch {
		case err == nil:
			there = append(there, found{one.kind, o})
		case !errors.As(err, &status):
			return nil, nil, err
		case !f.ignoreNotFound || !apierrors.IsNotFound(err):
			refused = append(refused, err)
		}
	}
	return there, refused, nil
}

// ask asks for one object or a list, and reads what came.
func (g *gateway) ask(ctx context.Context, f *getFlags, one wanted) (runtime.Object, error) {
	b, err := raw(ctx, g.request(f, one))
	if err != nil {
		return nil, err
	}
	return decode(b)
}

// request asks for one object or a list.
func (g *gateway) request(f *getFlags, one wanted) *rest.Request {
	path := []string{"/apis", one.kind.version.Group, one.kind.version.Version}
	if one.kind.version.Group == "" {
		path = []string{"/api", one.kind.version.Version}
	}
	space := f.spaces()
	if one.kind.Namespaced && one.name != "" {
		space = f.namespace
	}
	if one.kind.Namespaced && space != "" {
		path = append(path, "namespaces", space)
	}
	path = append(path, one.kind.Name)
	fieldSelector := f.fields
	switch {
	case one.name != "" && f.watch:
		fieldSelector = fields.OneTermEqualSelector("metadata.name", one.name).String()
	case one.name != "":
		path = append(path, one.name)
	}
	r := g.client.Discovery().RESTClient().Get().AbsPath(path...)
	if f.labels != "" {
		r = r.Param("labelSelector", f.labels)
	}
	if fieldSelector != "" {
		r = r.Param("fieldSelector", fieldSelector)
	}
	if f.objects != nil {
		return r.SetHeader("Accept", "application/json")
	}
	if f.sortBy != "" {
		r = r.Param("includeObject", "Object") // a row has the object's metadata alone
	}
	return r.SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
}

// raw makes a request and returns the answer as it came. An error is the API's own.
func raw(ctx context.Context, r *rest.Request) ([]byte, error) {
	result := r.Do(ctx)
	// Raw alone would say of an error only what its code means.
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// showRaw copies the API's answer.
func (g *gateway) showRaw(ctx context.Context, w IO, f *getFlags) error {
	if f.watch || f.watchOnly || f.labels != "" || f.output != "" {
		return fmt.Errorf("%w: --raw goes without flags that choose or change what is shown", errUsage)
	}
	if !strings.HasPrefix(f.raw, "/") {
		return fmt.Errorf("%w: --raw: expected a path that begins with /, found %q", errUsage, f.raw)
	}
	stream, err := g.client.Discovery().RESTClient().Get().RequestURI(f.raw).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	_, err = io.Copy(w.Out, stream)
	return err
}
