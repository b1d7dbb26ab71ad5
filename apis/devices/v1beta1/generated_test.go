package v1beta1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// comments are the doc comments of this package's types and fields: "Type" and "Type.Field".
type comments map[string]string

func readComments(t *testing.T) comments {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out := comments{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			d, ok := n.(*ast.GenDecl)
			if !ok {
				return true
			}
			for _, s := range d.Specs {
				s, ok := s.(*ast.TypeSpec)
				if !ok {
					continue
				}
				out[s.Name.Name] = raw(d.Doc)
				if fields, ok := s.Type.(*ast.StructType); ok {
					for _, f := range fields.Fields.List {
						for _, name := range f.Names {
							out[s.Name.Name+"."+name.Name] = raw(f.Doc)
						}
					}
				}
			}
			return true
		})
	}
	return out
}

// raw returns the lines of a comment, markers included.
func raw(g *ast.CommentGroup) string {
	var b strings.Builder
	if g != nil {
		for _, c := range g.List {
			b.WriteString(strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), " ") + "\n")
		}
	}
	return b.String()
}

// description is what kubectl explain shows of a comment: its words.
func (c comments) description(of string) string {
	var words []string
	for line := range strings.Lines(c[of]) {
		if !strings.HasPrefix(line, "+") {
			words = append(words, strings.Fields(line)...)
		}
	}
	return strings.Join(words, " ")
}

// rules are the markers that a schema repeats: "maxItems" -> "1000", "default" -> "true", and the one rule of CEL that a type may have.
func (c comments) rules(of string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(c[of]) {
		marker, ok := strings.CutPrefix(strings.TrimSpace(line), "+kubebuilder:")
		validation, validates := strings.CutPrefix(marker, "validation:")
		if !ok || !validates && !strings.HasPrefix(marker, "default=") {
			continue
		}
		marker = validation
		if rule, ok := strings.CutPrefix(marker, `XValidation:rule="`); ok {
			rule, _, _ = strings.Cut(rule, `"`)
			marker = "X-kubernetes-validations=" + rule
		}
		key, value, _ := strings.Cut(marker, "=")
		key = string(unicode.ToLower(rune(key[0]))) + key[1:]
		out[key] = value
	}
	return out
}

// A reader compares Go types with a schema and collects what differs.
type reader struct {
	comments comments
	faults   []string
}

func (r *reader) fault(path, format string, args ...any) {
	r.faults = append(r.faults, path+": "+fmt.Sprintf(format, args...))
}

var freeForm = reflect.TypeFor[runtime.RawExtension]()

// compare checks that schema says of t what its Go type and comments say.
func (r *reader) compare(path string, t reflect.Type, schema map[string]any) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	kinds := map[reflect.Kind]string{
		reflect.String: "string", reflect.Bool: "boolean", reflect.Int32: "integer", reflect.Int64: "integer",
		reflect.Slice: "array", reflect.Map: "object", reflect.Struct: "object",
	}
	if schema["type"] != kinds[t.Kind()] {
		r.fault(path, "the schema says %v, the Go type is %s", schema["type"], t)
		return
	}
	if t.PkgPath() == reflect.TypeFor[Device]().PkgPath() && t.Name() != "" {
		r.holds(path, r.comments.rules(t.Name()), schema)
	}
	switch {
	case t == freeForm:
		if schema["x-kubernetes-preserve-unknown-fields"] != true {
			r.fault(path, "free-form, and the schema prunes it")
		}
	case t.Kind() == reflect.Slice:
		items, _ := schema["items"].(map[string]any)
		r.compare(path+"[]", t.Elem(), items)
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[metav1.ObjectMeta]() && t != reflect.TypeFor[metav1.Condition]():
		r.compareFields(path, t, schema)
	}
}

func (r *reader) compareFields(path string, t reflect.Type, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	rest := maps.Clone(properties)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue // the type's own kind and version
		}
		schema, ok := properties[name].(map[string]any)
		if !ok {
			r.fault(path, "the schema lacks %s", name)
			continue
		}
		delete(rest, name)
		if name == "metadata" {
			continue
		}
		of := t.Name() + "." + f.Name
		want := r.comments.description(of)
		if got, _ := schema["description"].(string); want != "" && strings.Join(strings.Fields(got), " ") != want {
			r.fault(path+"."+name, "the schema describes it as %q, its comment as %q", got, want)
		}
		if must, may := slices.Contains(required, any(name)), strings.Contains(options, "omitempty"); must == may {
			r.fault(path+"."+name, "required: %t in the schema, omitempty: %t in the code", must, may)
		}
		r.holds(path+"."+name, r.comments.rules(of), schema)
		r.compare(path+"."+name, f.Type, schema)
	}
	delete(rest, "apiVersion")
	delete(rest, "kind")
	if len(rest) > 0 {
		r.fault(path, "the schema has %v besides", slices.Sorted(maps.Keys(rest)))
	}
}

// holdsRoot compares what a kind says of itself.
func (r *reader) holdsRoot(kind string, schema map[string]any) {
	got, _ := schema["description"].(string)
	if want := r.comments.description(kind); strings.Join(strings.Fields(got), " ") != want {
		r.fault(kind, "the schema describes it as %q, its comment as %q", got, want)
	}
}

func (r *reader) holds(path string, rules map[string]string, schema map[string]any) {
	for rule, want := range rules {
		got := fmt.Sprint(schema[rule])
		switch v := schema[rule].(type) {
		case []any:
			var words []string
			for _, e := range v {
				if rule, ok := e.(map[string]any); ok {
					e = rule["rule"]
				}
				words = append(words, fmt.Sprint(e))
			}
			got = strings.Join(words, ";")
		case float64:
			got = fmt.Sprint(int64(v))
		}
		if got != want {
			r.fault(path, "%s is %s in the schema, %s in the code", rule, got, want)
		}
	}
}

// TestDefinitionsAreOfTheseTypes fails where a type, a comment or a marker was changed and `make generate` forgotten.
func TestDefinitionsAreOfTheseTypes(t *testing.T) {
	for resource, kind := range map[string]any{DeviceModelResource: DeviceModel{}, DeviceResource: Device{}, DeviceStatusResource: DeviceStatus{}} {
		data, err := os.ReadFile("../../../build/crds/devices.kubeedge.io_" + resource + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var definition struct {
			Spec struct {
				Names struct {
					Plural, Kind string
					ShortNames   []string
				}
				Versions []struct {
					Name                     string
					AdditionalPrinterColumns []struct{ Name, JSONPath string }
					Subresources             map[string]any
					Schema                   struct{ OpenAPIV3Schema map[string]any }
				}
			}
		}
		if err := yaml.Unmarshal(data, &definition); err != nil {
			t.Fatal(err)
		}
		version := definition.Spec.Versions[0]
		r := &reader{comments: readComments(t)}
		r.compare(definition.Spec.Names.Kind, reflect.TypeOf(kind), version.Schema.OpenAPIV3Schema)
		r.holdsRoot(definition.Spec.Names.Kind, version.Schema.OpenAPIV3Schema)
		for _, c := range version.AdditionalPrinterColumns {
			if marker := fmt.Sprintf("JSONPath=`%s`", c.JSONPath); !strings.Contains(r.comments[definition.Spec.Names.Kind], marker) {
				r.fault(definition.Spec.Names.Kind, "prints a column %s that the code does not ask for", c.Name)
			}
		}
		if got, want := len(version.AdditionalPrinterColumns), strings.Count(r.comments[definition.Spec.Names.Kind], "+kubebuilder:printcolumn"); got != want {
			r.fault(definition.Spec.Names.Kind, "%d columns in the definition, %d in the code", got, want)
		}
		if got := strings.Join(definition.Spec.Names.ShortNames, ";"); !strings.Contains(r.comments[definition.Spec.Names.Kind], ",shortName="+got+",") {
			r.fault(definition.Spec.Names.Kind, "the short name is %s, in the code another", got)
		}
		for _, f := range r.faults {
			t.Errorf("%s (after a change of the code: make generate)", f)
		}
		if version.Name != GroupVersion.Version || definition.Spec.Names.Plural != resource || len(version.Subresources) > 0 {
			t.Errorf("%s is %s in %s, with subresources %v; expected %s in %s, and none: KubeEdge's clients write a status with the object",
				kind, definition.Spec.Names.Plural, version.Name, version.Subresources, resource, GroupVersion.Version)
		}
	}
}

// undescribed returns the fields below a schema, as paths, of which kubectl explain would say nothing.
func undescribed(path string, schema map[string]any) (all []string) {
	if items, ok := schema["items"].(map[string]any); ok {
		all = append(all, undescribed(path+"[]", items)...)
	}
	fields, _ := schema["properties"].(map[string]any)
	for name, field := range fields {
		field, _ := field.(map[string]any)
		at := path + "." + name
		text, _ := field["description"].(string)
		ofTheObject := name == "metadata" && !strings.Contains(path, ".") // the API server explains it
		if strings.TrimSpace(text) == "" && !ofTheObject {
			all = append(all, at)
		}
		all = append(all, undescribed(at, field)...)
	}
	return all
}

// TestEveryFieldIsExplained: what kubectl explain says is the documentation that people have where they work.
func TestEveryFieldIsExplained(t *testing.T) {
	for _, kind := range []string{"devicemodels", "devices", "devicestatuses"} {
		data, err := os.ReadFile("../../../build/crds/devices.kubeedge.io_" + kind + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var definition struct {
			Spec struct {
				Versions []struct {
					Schema struct{ OpenAPIV3Schema map[string]any }
				}
			}
		}
		if err := yaml.Unmarshal(data, &definition); err != nil {
			t.Fatal(err)
		}
		schema := definition.Spec.Versions[0].Schema.OpenAPIV3Schema
		if len(schema) == 0 {
			t.Fatalf("%s has no schema", kind)
		}
		for _, field := range undescribed(kind, schema) {
			t.Errorf("kubectl explain says nothing of %s: write a comment above the field, then make generate", field)
		}
	}
}

// fill gives every field of v a value; n makes it differ.
func fill(v reflect.Value, n int) {
	switch {
	case v.Type() == freeForm:
		v.Set(reflect.ValueOf(runtime.RawExtension{Raw: fmt.Appendf(nil, `{"n":%d,"deep":{"list":[true,null,1.5]}}`, n)}))
	case v.Type() == reflect.TypeFor[metav1.ObjectMeta]():
		v.Set(reflect.ValueOf(metav1.ObjectMeta{Name: fmt.Sprint("n", n), Labels: map[string]string{"n": fmt.Sprint(n)}}))
	case v.Type() == reflect.TypeFor[metav1.Time]():
		v.Set(reflect.ValueOf(metav1.Unix(int64(n), 0)))
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fill(v.Elem(), n)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case v.Kind() == reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		}
		for i := range v.Len() {
			fill(v.Index(i), n+i)
		}
	case v.Kind() == reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf(fmt.Sprint(n)))
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text", n))
	case v.Kind() == reflect.Bool:
		v.SetBool(n%2 == 1)
	case v.CanInt():
		v.SetInt(int64(n))
	}
}

// TestADeepCopySharesNothing fails where a field was added and the deep copies are stale.
func TestADeepCopySharesNothing(t *testing.T) {
	for _, obj := range []runtime.Object{&DeviceModelList{}, &DeviceList{}, &DeviceStatusList{}} {
		fill(reflect.ValueOf(obj), 1)
		before, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		copied := obj.DeepCopyObject()
		if !reflect.DeepEqual(obj, copied) {
			t.Errorf("the copy of a %T differs", obj)
		}
		fill(reflect.ValueOf(copied), 4)
		after, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Errorf("a change of the copy of a %T changed the original (after a change of the code: make generate)", obj)
		}
	}
}

// TestTheSchemeKnowsAllKinds decodes each kind by its name.
func TestTheSchemeKnowsAllKinds(t *testing.T) {
	s := runtime.NewScheme()
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{DeviceModelKind, DeviceKind, DeviceStatusKind} {
		for _, kind := range []string{kind, kind + "List"} {
			obj, err := s.New(GroupVersion.WithKind(kind))
			if err != nil {
				t.Error(err)
			} else if got := reflect.TypeOf(obj).Elem().Name(); got != kind {
				t.Errorf("%s is a %s", kind, got)
			}
		}
	}
}
