package keadm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// getFlags are what get is asked for.
type getFlags struct {
	ctlFlags
	output, labels, fields       string
	watch, noHeaders, showLabels bool
}

func newCtlGet(w IO) *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use:   "get KIND [NAME...] | get KIND/NAME...",
		Short: "List objects that this node holds, in kubectl's formats",
		Long: "List what this node holds of the cluster, and what its kubelet reported. KIND is a name as kubectl knows it (pods, po, pod;\n" +
			"several with commas).",
		Example: "  keadm ctl get pods -A -o wide\n" +
			"  keadm ctl get nodes,configmaps\n" +
			"  keadm ctl get po/web-0 -o yaml\n" +
			"  keadm ctl get devices",
		Args: expects("a kind, such as pods", cobra.MinimumNArgs(1)),
	}
	f.inAny(c)
	fl := c.Flags()
	fl.StringVarP(&f.output, "output", "o", "", "wide, json, yaml or name; without it, a table")
	fl.StringVarP(&f.labels, "selector", "l", "", "only those with these labels, such as app=web,tier!=db")
	fl.StringVar(&f.fields, "field-selector", "", "only those with these fields, such as status.phase=Running")
	fl.BoolVarP(&f.watch, "watch", "w", false, "go on, and show each change")
	fl.BoolVar(&f.noHeaders, "no-headers", false, "without the heading of the table")
	fl.BoolVar(&f.showLabels, "show-labels", false, "with the labels as the last column")
	choices(c, "output", getFormats...)
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if f.output != "" && !slices.Contains(getFormats, f.output) {
			return fmt.Errorf("%w: --output: expected one of %s, found %q", errUsage, strings.Join(getFormats, ", "), f.output)
		}
		return g.get(ctx, w, &f, args)
	})
	return c
}

var getFormats = []string{"wide", "json", "yaml", "name"}

// A wanted is a kind, and one object of it or all.
type wanted struct {
	kind kind
	name string
}

// A kind is a resource that the local API serves.
type kind struct {
	metav1.APIResource
	version schema.GroupVersion
}

// title is kind.group in small letters, as kubectl writes it.
func (k kind) title() string {
	return strings.TrimSuffix(strings.ToLower(k.Kind)+"."+k.version.Group, ".")
}

// get shows objects.
func (g *gateway) get(ctx context.Context, w IO, f *getFlags, args []string) error {
	list, err := g.wanted(args)
	if err != nil {
		return err
	}
	if f.all && slices.ContainsFunc(list, func(o wanted) bool { return o.name != "" && o.kind.Namespaced }) {
		return fmt.Errorf("%w: a name goes with one namespace: say -n instead of -A", errUsage)
	}
	if f.watch && len(list) > 1 {
		return fmt.Errorf("%w: --watch: expected one kind, found %d", errUsage, len(list))
	}
	single := len(list) == 1 && list[0].name != "" && !f.watch
	list, answers, missing, err := g.answers(ctx, f, list)
	if err != nil || len(list) == 0 {
		return errors.Join(err, missing)
	}
	var p *tablePrinter
	if f.output == "json" || f.output == "yaml" {
		err = printObjects(w.Out, f.output, answers, single)
	} else {
		p, err = f.printAnswers(w, list, answers)
	}
	if err != nil || !f.watch {
		return errors.Join(err, missing)
	}
	var shown struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}
	if err := json.Unmarshal(answers[0], &shown); err != nil {
		return fmt.Errorf("expected a list: %w", err)
	}
	return g.follow(ctx, w, f, list[0], p, shown.Metadata.ResourceVersion)
}

// answers asks for each, and returns those that are there with what came. missing names those that are not: as with
// kubectl, they do not keep the others from being shown.
func (g *gateway) answers(ctx context.Context, f *getFlags, list []wanted) (there []wanted, answers [][]byte, missing, err error) {
	for _, one := range list {
		b, err := raw(ctx, g.request(f, one))
		switch {
		case apierrors.IsNotFound(err):
			missing = errors.Join(missing, err)
			continue
		case err != nil:
			return nil, nil, nil, err
		}
		there, answers = append(there, one), append(answers, b)
	}
	return there, answers, missing, nil
}

// wanted reads KIND[,KIND] [NAME...] or KIND/NAME....
func (g *gateway) wanted(args []string) ([]wanted, error) {
	var out []wanted
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			k, name, ok := strings.Cut(a, "/")
			if !ok || k == "" || name == "" {
				return nil, fmt.Errorf("%w: expected KIND/NAME like the others, found %q", errUsage, a)
			}
			found, err := g.find(k)
			if err != nil {
				return nil, err
			}
			out = append(out, wanted{found, name})
		}
		return out, nil
	}
	for k := range strings.SplitSeq(args[0], ",") {
		found, err := g.find(k)
		if err != nil {
			return nil, err
		}
		if len(args) == 1 {
			out = append(out, wanted{kind: found})
		}
		for _, name := range args[1:] {
			out = append(out, wanted{found, name})
		}
	}
	return out, nil
}

// find looks a kind up by any of its names, with its group or without.
func (g *gateway) find(name string) (kind, error) {
	_, lists, err := g.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		return kind{}, err
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return kind{}, err
		}
		for _, r := range list.APIResources {
			names := append([]string{r.Name, r.SingularName, strings.ToLower(r.Kind)}, r.ShortNames...)
			short, group, grouped := strings.Cut(strings.ToLower(name), ".")
			if !strings.Contains(r.Name, "/") && slices.Contains(names, short) && (!grouped || group == gv.Group) {
				return kind{r, gv}, nil
			}
		}
	}
	return kind{}, fmt.Errorf("this node holds no kind %q: expected one of those that 'kubectl --kubeconfig %s api-resources' lists", name, localKubeconfig(g.cfg.DataDir))
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
	if f.output == "json" || f.output == "yaml" {
		return r.SetHeader("Accept", "application/json")
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

// printer is for the objects of one kind.
func (f *getFlags) printer(one wanted, titled bool) *tablePrinter {
	p := &tablePrinter{wide: f.output == "wide", names: f.output == "name", labels: f.showLabels, headers: !f.noHeaders,
		spaces: f.all && one.kind.Namespaced}
	if titled || p.names {
		p.title = one.kind.title()
	}
	return p
}

// printAnswers prints tables or names, and returns the last printer, for what comes later.
func (f *getFlags) printAnswers(w IO, list []wanted, answers [][]byte) (*tablePrinter, error) {
	same := func(a, b wanted) bool { return a.kind.title() == b.kind.title() }
	various := slices.ContainsFunc(list, func(o wanted) bool { return !same(o, list[0]) })
	p, empty := f.printer(list[0], various), true
	for i := 0; i < len(list); {
		t := &table{}
		// Objects of one kind that were named one by one are one table.
		first := i
		for ; i < len(list) && same(list[first], list[i]); i++ {
			one, err := readTable(answers[i])
			if err != nil {
				return nil, err
			}
			t.ColumnDefinitions, t.Rows = one.ColumnDefinitions, append(t.Rows, one.Rows...)
		}
		if len(t.Rows) == 0 {
			continue
		}
		p = f.printer(list[first], various)
		if !empty && !p.names {
			fmt.Fprintln(w.Out)
		}
		if err := p.print(w.Out, t); err != nil {
			return nil, err
		}
		empty = false
	}
	if empty && !f.watch {
		where := ""
		if list[0].kind.Namespaced && !f.all {
			where = " in " + f.namespace + " namespace"
		}
		fmt.Fprintf(w.Err, "No resources found%s.\n", where)
	}
	return p, nil
}

// follow shows each change until the person has seen enough.
func (g *gateway) follow(ctx context.Context, w IO, f *getFlags, one wanted, p *tablePrinter, version string) error {
	stream, err := g.request(f, one).Param("watch", "true").Param("resourceVersion", version).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	for d := json.NewDecoder(stream); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := d.Decode(&event); err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch {
		case event.Type == "ERROR":
			return fmt.Errorf("the watch ended: %s", event.Object)
		case f.output == "json" || f.output == "yaml":
			err = printObjects(w.Out, f.output, [][]byte{event.Object}, true)
		default:
			t, terr := readTable(event.Object)
			if err = terr; err == nil {
				err = p.print(w.Out, t)
			}
		}
		if err != nil {
			return err
		}
	}
}

// printObjects writes one object as it is, or a List of all, as kubectl does.
func printObjects(out io.Writer, format string, answers [][]byte, single bool) error {
	items := []any{}
	for _, b := range answers {
		var o map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&o); err != nil {
			return fmt.Errorf("expected an object: %w", err)
		}
		if single {
			return printObject(out, format, o)
		}
		listed, isList := o["items"].([]any)
		if !isList {
			items = append(items, o)
			continue
		}
		kind, _ := o["kind"].(string)
		for _, item := range listed {
			if item, ok := item.(map[string]any); ok {
				item["apiVersion"], item["kind"] = o["apiVersion"], strings.TrimSuffix(kind, "List")
			}
			items = append(items, item)
		}
	}
	return printObject(out, format, map[string]any{"apiVersion": "v1", "kind": "List", "items": items, "metadata": map[string]any{"resourceVersion": ""}})
}

func printObject(out io.Writer, format string, o map[string]any) error {
	b, err := json.MarshalIndent(o, "", "    ")
	if err == nil && format == "yaml" {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.TrimSuffix(string(b), "\n"))
	return err
}
