package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxDepth bounds how deep the objects and lists of a configuration may be nested.
const maxDepth = 64

// maxExact is the greatest number up to which every integer is a float64.
const maxExact = 1 << 53

// ConfigToDMI turns a free-form object, as JSON, into what mappers are told: one message of google.protobuf a key.
//
//	true, false        BoolValue
//	text               StringValue
//	an integer         Int64Value, whatever its notation: 5, 5.0, 5e0
//	another number     FloatValue, so six digits of it are sure: existing mappers know no DoubleValue, which is taken only for
//	                   what is too large or too small for a FloatValue
//	object, list, null Value, which existing mappers leave out
//
// Nothing and null are no keys. The error names the key and what is wrong with it.
func ConfigToDMI(object []byte) (map[string]*anypb.Any, error) {
	tree, err := decode(object)
	if err != nil {
		return nil, err
	}
	return configToDMI(tree)
}

func configToDMI(tree map[string]any) (map[string]*anypb.Any, error) {
	out := make(map[string]*anypb.Any, len(tree))
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		m, err := message(tree[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote(key), err)
		}
		out[key] = new(anypb.Any)
		if err := anypb.MarshalFrom(out[key], m, proto.MarshalOptions{Deterministic: true}); err != nil {
			return nil, fmt.Errorf("%s: %w", quote(key), err)
		}
	}
	return out, nil
}

// decode parses an object; numbers stay as they are written.
func decode(object []byte) (map[string]any, error) {
	if len(object) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	var tree map[string]any
	err := d.Decode(&tree)
	if other := (*json.UnmarshalTypeError)(nil); errors.As(err, &other) {
		return nil, fmt.Errorf("expected an object, found JSON of another kind (%s)", other.Value)
	}
	if err != nil {
		return nil, fmt.Errorf("expected an object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("expected an object, found more behind it")
	}
	return tree, nil
}

// message returns the message of google.protobuf for a value.
func message(v any) (proto.Message, error) {
	switch v := v.(type) {
	case bool:
		return wrapperspb.Bool(v), nil
	case string:
		return wrapperspb.String(v), nil
	case json.Number:
		return numberMessage(string(v))
	}
	return nested(v, 1)
}

func numberMessage(text string) (proto.Message, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return wrapperspb.Int64(n), nil
	}
	f, err := float(text)
	if err != nil {
		return nil, err
	}
	if f == math.Trunc(f) && math.Abs(f) <= maxExact {
		return wrapperspb.Int64(int64(f)), nil
	}
	if short := float32(f); !math.IsInf(float64(short), 0) && (short != 0 || f == 0) {
		return wrapperspb.Float(short), nil
	}
	return wrapperspb.Double(f), nil
}

// float parses a number, and refuses one that would become infinite, or an integer that would become another.
func float(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("expected a number of 64 bits, found %s", quote(text))
	}
	if n, err := strconv.ParseInt(text, 10, 64); isInteger(text) && (err != nil || f >= math.MaxInt64 || int64(f) != n) {
		return 0, fmt.Errorf("expected an integer that is exact in 64 bits, found %s: write it as text", quote(text))
	}
	return f, nil
}

// isInteger says whether a number is written with digits alone.
func isInteger(text string) bool {
	for i, c := range []byte(text) {
		if (c < '0' || c > '9') && (i > 0 || c != '-') {
			return false
		}
	}
	return true
}

// nested returns what is inside objects and lists, and null.
func nested(v any, depth int) (*structpb.Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("expected at most %d levels, found more", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		return structpb.NewNullValue(), nil
	case bool:
		return structpb.NewBoolValue(v), nil
	case string:
		return structpb.NewStringValue(v), nil
	case json.Number:
		f, err := float(string(v))
		return structpb.NewNumberValue(f), err
	case []any:
		list := &structpb.ListValue{Values: make([]*structpb.Value, len(v))}
		for i, e := range v {
			var err error
			if list.Values[i], err = nested(e, depth+1); err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return structpb.NewListValue(list), nil
	case map[string]any:
		object := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(v))}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			var err error
			if object.Fields[key], err = nested(v[key], depth+1); err != nil {
				return nil, fmt.Errorf("%s: %w", quote(key), err)
			}
		}
		return structpb.NewStructValue(object), nil
	}
	return nil, fmt.Errorf("expected a value of JSON, found a %T", v)
}

// ConfigFromDMI is the reverse of ConfigToDMI: the object as JSON with its keys in order, nil where there is none. It
// reads all wrappers of google.protobuf, Value, Struct and ListValue; bytes become base64. The error names the key.
func ConfigFromDMI(data map[string]*anypb.Any) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	tree := make(map[string]any, len(data))
	for key, a := range data {
		v, err := plain(a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote(key), err)
		}
		tree[key] = v
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(tree); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// plain returns what encoding/json writes for the message in a.
func plain(a *anypb.Any) (any, error) {
	m, err := known(a)
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *wrapperspb.StringValue:
		return m.Value, nil
	case *wrapperspb.BoolValue:
		return m.Value, nil
	case *wrapperspb.Int32Value:
		return m.Value, nil
	case *wrapperspb.Int64Value:
		return m.Value, nil
	case *wrapperspb.UInt32Value:
		return m.Value, nil
	case *wrapperspb.UInt64Value:
		return m.Value, nil
	case *wrapperspb.FloatValue:
		return m.Value, finite(float64(m.Value))
	case *wrapperspb.DoubleValue:
		return m.Value, finite(m.Value)
	case *wrapperspb.BytesValue:
		return m.Value, nil
	case *structpb.Value:
		return plainNested(m, 1)
	case *structpb.Struct:
		return plainNested(structpb.NewStructValue(m), 1)
	case *structpb.ListValue:
		return plainNested(structpb.NewListValue(m), 1)
	}
	return nil, fmt.Errorf("expected a value of google.protobuf, found %s", quote(a.GetTypeUrl()))
}

// known unpacks a message of the types above; any other is returned empty, and nil where nothing is in a.
func known(a *anypb.Any) (proto.Message, error) {
	for _, m := range []proto.Message{
		&wrapperspb.StringValue{}, &wrapperspb.BoolValue{}, &wrapperspb.Int64Value{}, &wrapperspb.FloatValue{}, &wrapperspb.DoubleValue{},
		&wrapperspb.Int32Value{}, &wrapperspb.UInt32Value{}, &wrapperspb.UInt64Value{}, &wrapperspb.BytesValue{},
		&structpb.Value{}, &structpb.Struct{}, &structpb.ListValue{},
	} {
		if a.MessageIs(m) {
			if err := a.UnmarshalTo(m); err != nil {
				return nil, fmt.Errorf("read a %s: %w", a.MessageName(), err)
			}
			return m, nil
		}
	}
	return nil, nil
}

func finite(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("expected a number, found %v", f)
	}
	return nil
}

func plainNested(v *structpb.Value, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("expected at most %d levels, found more", maxDepth)
	}
	switch v := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return v.BoolValue, nil
	case *structpb.Value_StringValue:
		return v.StringValue, nil
	case *structpb.Value_NumberValue:
		return v.NumberValue, finite(v.NumberValue)
	case *structpb.Value_ListValue:
		out := make([]any, len(v.ListValue.GetValues()))
		for i, e := range v.ListValue.GetValues() {
			var err error
			if out[i], err = plainNested(e, depth+1); err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return out, nil
	case *structpb.Value_StructValue:
		out := make(map[string]any, len(v.StructValue.GetFields()))
		for key, e := range v.StructValue.GetFields() {
			var err error
			if out[key], err = plainNested(e, depth+1); err != nil {
				return nil, fmt.Errorf("%s: %w", quote(key), err)
			}
		}
		return out, nil
	}
	return nil, nil // null, or of a kind that only a newer version knows
}
