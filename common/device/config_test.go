package device

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

// frameworkReads is what a mapper of KubeEdge's framework makes of a value: it knows these five and leaves out others.
func frameworkReads(a *anypb.Any) (any, bool) {
	switch a.TypeUrl {
	case "type.googleapis.com/google.protobuf.StringValue":
		return read(a, &wrapperspb.StringValue{}).(*wrapperspb.StringValue).Value, true
	case "type.googleapis.com/google.protobuf.BoolValue":
		return read(a, &wrapperspb.BoolValue{}).(*wrapperspb.BoolValue).Value, true
	case "type.googleapis.com/google.protobuf.Int32Value":
		return read(a, &wrapperspb.Int32Value{}).(*wrapperspb.Int32Value).Value, true
	case "type.googleapis.com/google.protobuf.Int64Value":
		return read(a, &wrapperspb.Int64Value{}).(*wrapperspb.Int64Value).Value, true
	case "type.googleapis.com/google.protobuf.FloatValue":
		return read(a, &wrapperspb.FloatValue{}).(*wrapperspb.FloatValue).Value, true
	}
	return nil, false
}

func read(a *anypb.Any, m proto.Message) proto.Message {
	if err := proto.Unmarshal(a.Value, m); err != nil {
		panic(err)
	}
	return m
}

func TestWhatMappersReadOfAConfiguration(t *testing.T) {
	for _, c := range []struct {
		json, kind string
		reads      string // what a mapper of the framework writes into its own JSON; empty: it leaves it out
		back       string // what ConfigFromDMI makes of it
	}{
		{`"text"`, "StringValue", `"text"`, `"text"`},
		{`""`, "StringValue", `""`, `""`},
		{`true`, "BoolValue", `true`, `true`},
		{`false`, "BoolValue", `false`, `false`},
		{`502`, "Int64Value", `502`, `502`},
		{`-1`, "Int64Value", `-1`, `-1`},
		{`0`, "Int64Value", `0`, `0`},
		{`9007199254740993`, "Int64Value", `9007199254740993`, `9007199254740993`},
		{`9223372036854775807`, "Int64Value", `9223372036854775807`, `9223372036854775807`},
		{`5.0`, "Int64Value", `5`, `5`},
		{`1e6`, "Int64Value", `1000000`, `1000000`},
		{`0.1`, "FloatValue", `0.1`, `0.1`},
		{`-0.03125`, "FloatValue", `-0.03125`, `-0.03125`},
		{`52.5201`, "FloatValue", `52.5201`, `52.5201`},
		{`52.52000659`, "FloatValue", `52.520008`, `52.520008`},
		{`1e30`, "FloatValue", `1e+30`, `1e+30`},
		{`1e300`, "DoubleValue", ``, `1e+300`},
		{`1e-300`, "DoubleValue", ``, `1e-300`},
		{`null`, "Value", ``, `null`},
		{`[1,"two",[false]]`, "Value", ``, `[1,"two",[false]]`},
		{`{"b":{"c":0.5},"a":null}`, "Value", ``, `{"a":null,"b":{"c":0.5}}`},
	} {
		data, err := ConfigToDMI([]byte(`{"key":` + c.json + `}`))
		if err != nil {
			t.Errorf("%s: %v", c.json, err)
			continue
		}
		if kind := strings.TrimPrefix(data["key"].GetTypeUrl(), "type.googleapis.com/google.protobuf."); kind != c.kind {
			t.Errorf("%s is sent as a %s, expected %s", c.json, kind, c.kind)
		}
		reads := ""
		if v, ok := frameworkReads(data["key"]); ok {
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			reads = string(text)
		}
		if reads != c.reads {
			t.Errorf("a mapper reads %s as %s, expected %s", c.json, reads, c.reads)
		}
		if back, err := ConfigFromDMI(data); err != nil || string(back) != `{"key":`+c.back+`}` {
			t.Errorf("%s comes back as %s, %v; expected %s", c.json, back, err, c.back)
		}
	}
}

func TestHostileConfigurationsAreRefused(t *testing.T) {
	nest := func(n int, open, end string) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	for _, c := range []struct{ json, error string }{
		{`[1]`, "expected an object"}, {`"text"`, "expected an object"}, {`{`, "expected an object"}, {`{"a":1}x`, "found more behind it"},
		{`{"a":1}{"b":2}`, "found more behind it"}, {`{"a":01}`, "expected an object"}, {`{"a":NaN}`, "expected an object"},
		{`{"a":9223372036854775808}`, `"a": expected an integer that is exact in 64 bits, found "9223372036854775808": write it as text`},
		{`{"a":` + strings.Repeat("9", 5000) + `}`, `"a": expected a number of 64 bits, found "999999`},
		{`{"a":1e999}`, `"a": expected a number of 64 bits, found "1e999"`},
		{`{"a":{"b":[0,9007199254740993]}}`, `"a": "b": [1]: expected an integer that is exact in 64 bits`},
		{`{"a":` + nest(65, "[", "]") + `}`, "expected at most 64 levels, found more"},
		{`{"a":` + nest(9000, "[", "]") + `}`, "expected at most 64 levels, found more"},
		{`{"a":` + nest(100_000, "[", "]") + `}`, "expected an object: "},
		{`{"a":` + strings.Repeat(`{"a":`, 80) + "1" + strings.Repeat("}", 80) + `}`, "expected at most 64 levels, found more"},
	} {
		_, err := ConfigToDMI([]byte(c.json))
		if err == nil || !strings.Contains(err.Error(), c.error) || len(err.Error()) > 1000 {
			t.Errorf("%.60s: %v, expected %s", c.json, err, c.error)
		}
	}
	for _, nothing := range []string{"", "null", "{}"} {
		if data, err := ConfigToDMI([]byte(nothing)); err != nil || len(data) > 0 {
			t.Errorf("%q: %v, %v", nothing, data, err)
		}
	}
	if _, err := ConfigToDMI([]byte(`{"a":` + nest(64, "[", "]") + `}`)); err != nil {
		t.Errorf("64 levels: %v", err)
	}
}

// deep is a value of n lists in each other.
func deep(n int) *structpb.Value {
	v := structpb.NewNullValue()
	for range n {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	return v
}

func TestHostileMessagesOfAMapperAreRefused(t *testing.T) {
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		any   *anypb.Any
		error string
	}{
		{nil, `"k": expected a value of google.protobuf, found ""`},
		{&anypb.Any{}, `"k": expected a value of google.protobuf, found ""`},
		{&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Duration"}, `found "type.googleapis.com/google.protobuf.Duration"`},
		{&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte{0xff}}, `"k": read a google.protobuf.StringValue`},
		{&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte{0x0a, 1, 0xff}}, `invalid UTF-8`},
		{pack(wrapperspb.Float(float32(math.Inf(1)))), `"k": expected a number, found +Inf`},
		{pack(wrapperspb.Double(math.NaN())), `"k": expected a number, found NaN`},
		{pack(structpb.NewNumberValue(math.NaN())), `"k": expected a number, found NaN`},
		{pack(deep(65)), "expected at most 64 levels, found more"},
		{&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Value", Value: encoded(deep(4000))}, "levels, found more"},
	} {
		if out, err := ConfigFromDMI(map[string]*anypb.Any{"k": c.any}); err == nil || !strings.Contains(err.Error(), c.error) {
			t.Errorf("%.80v is read as %s, %v; expected %s", c.any, out, err, c.error)
		}
	}
	for want, m := range map[string]proto.Message{
		`"AQI="`: wrapperspb.Bytes([]byte{1, 2}), `7`: wrapperspb.UInt32(7), `18446744073709551615`: wrapperspb.UInt64(math.MaxUint64), `-3`: wrapperspb.Int32(-3),
		`{"a":"<&>"}`: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewStringValue("<&>")}},
		`[1]`:         &structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(1)}},
		`null`:        &structpb.Value{},
	} {
		if out, err := ConfigFromDMI(map[string]*anypb.Any{"k": pack(m)}); err != nil || string(out) != `{"k":`+want+`}` {
			t.Errorf("%T is read as %s, %v; expected %s", m, out, err, want)
		}
	}
}

func encoded(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

// anyJSON draws a value that comes back as it went: numbers have at most six digits.
func anyJSON(depth int) *rapid.Generator[any] {
	simple := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int64Range(-maxExact, maxExact), func(n int64) any { return json.Number(fmt.Sprint(n)) }),
		rapid.Map(rapid.IntRange(-999_999, 999_999), func(n int) any {
			return json.Number(strconv.FormatFloat(float64(n)/100, 'f', -1, 64))
		}),
	)
	if depth == 0 {
		return simple
	}
	return rapid.OneOf(simple,
		rapid.Map(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[any] { return anyJSON(depth - 1) }), 0, 3), func(l []any) any { return append([]any{}, l...) }),
		rapid.Map(objects(depth-1), func(o map[string]any) any { return o }),
	)
}

func objects(depth int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.String(), rapid.Deferred(func() *rapid.Generator[any] { return anyJSON(depth) }), 0, 4)
}

// compact writes JSON with its keys in order.
func compact(t rapid.TB, v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func TestConfigurationsComeBackAsTheyWent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		object := objects(4).Draw(rt, "object")
		sent := compact(rt, object)
		data, err := ConfigToDMI([]byte(sent))
		if err != nil {
			rt.Fatalf("%s: %v", sent, err)
		}
		back, err := ConfigFromDMI(data)
		if err != nil {
			rt.Fatalf("%s: %v", sent, err)
		}
		if len(object) == 0 && back == nil {
			return
		}
		if string(back) != sent {
			rt.Fatalf("%s came back as %s", sent, back)
		}
	})
}

// FuzzConfiguration: what is accepted comes back as an object of the same keys, and is the same the next time.
func FuzzConfiguration(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":[null,{"c":1.5e300}]}`, `{"a":1,"a":2}`, `{"\u0000":"\ud800"}`, `{"a":-0}`, `{"a":` + strings.Repeat("[", 70)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		data, err := ConfigToDMI(object)
		if err != nil {
			return
		}
		back, err := ConfigFromDMI(data)
		if err != nil {
			t.Fatalf("%s was sent and cannot be read: %v", object, err)
		}
		again, err := ConfigToDMI(back)
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(data)), slices.Sorted(maps.Keys(again))) {
			t.Fatalf("%s came back as %s: %v", object, back, err)
		}
		second, err := ConfigFromDMI(again)
		if err != nil || !bytes.Equal(back, second) {
			t.Fatalf("%s came back as %s and then as %s: %v", object, back, second, err)
		}
	})
}

// FuzzMapperConfiguration: whatever a mapper packs is read or refused.
func FuzzMapperConfiguration(f *testing.F) {
	for _, name := range []string{"StringValue", "Value", "Struct", "ListValue", "FloatValue", "BytesValue", "Any"} {
		f.Add("k", "type.googleapis.com/google.protobuf."+name, []byte{0x0a, 1, 'v'})
	}
	f.Fuzz(func(t *testing.T, key, url string, value []byte) {
		out, err := ConfigFromDMI(map[string]*anypb.Any{key: {TypeUrl: url, Value: value}})
		if err == nil && !json.Valid(out) {
			t.Errorf("%s", out)
		}
	})
}
