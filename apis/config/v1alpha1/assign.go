package v1alpha1

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// assign stores v, a parsed value, into dst. encoding/json would stop at the first value that does not fit and could
// not say where it is; this goes on and adds a fault with its path for each, and for each unknown field. A fault leaves
// dst as it was, and so does null: the default stays.
func (f *faults) assign(path string, dst reflect.Value, v any) {
	if v == nil {
		return
	}
	switch tree, isTree := v.(map[string]any); {
	case dst.Kind() == reflect.Struct && isTree:
		f.assignFields(path, dst, tree)
	case dst.Kind() == reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			f.add(path, "a list", shown(v))
			return
		}
		out := reflect.MakeSlice(dst.Type(), len(list), len(list))
		for i, e := range list {
			f.assign(index(path, i), out.Index(i), e)
		}
		dst.Set(out)
	case dst.Kind() == reflect.Map && isTree:
		out := reflect.MakeMap(dst.Type())
		for _, k := range slices.Sorted(maps.Keys(tree)) {
			e := reflect.New(dst.Type().Elem()).Elem()
			f.assign(path+"["+k+"]", e, tree[k])
			out.SetMapIndex(reflect.ValueOf(k), e)
		}
		dst.Set(out)
	default:
		f.assignLeaf(path, dst, v)
	}
}

func (f *faults) assignFields(path string, dst reflect.Value, tree map[string]any) {
	known := map[string]reflect.Value{}
	for t, i := dst.Type(), 0; i < t.NumField(); i++ {
		if t.Field(i).Anonymous {
			for j := range t.Field(i).Type.NumField() {
				known[name(t.Field(i).Type.Field(j))] = dst.Field(i).Field(j)
			}
			continue
		}
		known[name(t.Field(i))] = dst.Field(i)
	}
	for _, k := range slices.Sorted(maps.Keys(tree)) {
		at := strings.TrimPrefix(path+"."+k, ".")
		if field, ok := known[k]; ok {
			f.assign(at, field, tree[k])
			continue
		}
		// Case alone is the commonest slip, and reading it as meant would hide it from the next tool.
		expected := "one of the fields " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")
		for n := range known {
			if strings.EqualFold(n, k) {
				expected = "the spelling " + n
			}
		}
		f.add(at, expected, verbatim("an unknown field"))
	}
}

func name(field reflect.StructField) string {
	n, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return n
}

// assignLeaf stores a string, number, Duration or Bytes.
func (f *faults) assignLeaf(path string, dst reflect.Value, v any) {
	raw, err := json.Marshal(v)
	if err == nil {
		got := reflect.New(dst.Type())
		if err = json.Unmarshal(raw, got.Interface()); err == nil {
			dst.Set(got.Elem())
			return
		}
	}
	f.add(path, wanted(dst), shown(v))
}

// wanted names what dst takes.
func wanted(dst reflect.Value) string {
	switch dst.Interface().(type) {
	case Duration:
		return "a time with a unit, such as 250ms, 15s or 1h"
	case Bytes:
		return "a whole number of bytes, or with a unit of Ki, Mi, Gi or Ti, such as 64Mi"
	}
	switch dst.Kind() {
	case reflect.Struct, reflect.Map:
		return "fields with values"
	case reflect.String:
		return "text (in quotes if it looks like a number, true or false)"
	}
	return "a whole number"
}

// shown returns a parsed value as a person wrote it, more or less.
func shown(v any) verbatim {
	raw, err := json.Marshal(v)
	if err != nil || len(raw) > 60 {
		return "something longer"
	}
	return verbatim(raw)
}
