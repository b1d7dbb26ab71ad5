package device

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestWhichTextsAreValues(t *testing.T) {
	for _, c := range []struct {
		kind  v1beta1.PropertyType
		good  []string
		bad   []string
		error string // of each bad one
	}{
		{v1beta1.Int, []string{"0", "42", "-7", "+3", "007", "9223372036854775807", "-9223372036854775808"},
			[]string{"", " 1", "1 ", "1.0", "1e3", "0x10", "1_000", "9223372036854775808", "eleven", "１"}, "expected a decimal number of 64 bits (INT), found "},
		{v1beta1.Float, []string{"0", "1.5", "-2e3", ".5", "5.", "+1E-3", "3.4028234663852886e38", "1e-60"},
			[]string{"", "NaN", "Inf", "-inf", "infinity", "1e39", "0x1p-2", "1_0.5", "1,5", "1.5 "}, "expected a decimal number of 32 bits (FLOAT), found "},
		{v1beta1.Double, []string{"1e39", "-0", "1.7976931348623157e308"}, []string{"1e309", "nan", "0x1p4", "e"}, "expected a decimal number of 64 bits (DOUBLE), found "},
		{v1beta1.Boolean, []string{"true", "false", "1", "0", "True", "F"}, []string{"", "yes", "on", "tRue", " true", "2"}, "expected true or false (BOOLEAN), found "},
		{v1beta1.String, []string{"", "any ünïcode\x00\n"}, []string{"\xff"}, "expected text in UTF-8, found "},
		{v1beta1.Bytes, []string{"", "AQ==", "\x01\x02"}, []string{"a\xc3"}, "expected text in UTF-8, found "},
		{v1beta1.Stream, nil, []string{"", "frame"}, "expected no value, since its mapper handles a STREAM itself, found "},
		{"", []string{"", "anything"}, []string{"\xff"}, "expected text in UTF-8, found "},
		{"int", nil, []string{"1"}, "expected a type among INT, FLOAT, DOUBLE, STRING, BOOLEAN, BYTES, STREAM, found "},
	} {
		for _, text := range c.good {
			if err := CheckValue(c.kind, text); err != nil {
				t.Errorf("%s %q: %v", c.kind, text, err)
			}
		}
		for _, text := range c.bad {
			if err := CheckValue(c.kind, text); err == nil || !strings.HasPrefix(err.Error(), c.error) {
				t.Errorf("%s %q: %v, expected %q...", c.kind, text, err, c.error)
			}
		}
	}
}

func TestALongValueIsNotRepeatedInItsError(t *testing.T) {
	err := CheckValue(v1beta1.Int, strings.Repeat("é", 40_000))
	if err == nil || len(err.Error()) > 300 || !strings.HasSuffix(err.Error(), `é"... (80000 bytes)`) || !utf8.ValidString(err.Error()) {
		t.Errorf("%v", err)
	}
}

func TestValuesKeepWithinTheLimitsOfTheModel(t *testing.T) {
	for _, c := range []struct {
		kind                   v1beta1.PropertyType
		minimum, maximum, text string
		error                  string
	}{
		{v1beta1.Int, "-5", "5", "-5", ""},
		{v1beta1.Int, "-5", "5", "5", ""},
		{v1beta1.Int, "-5", "5", "6", `expected at most 5, found "6"`},
		{v1beta1.Int, "-5", "5", "-6", `expected at least -5, found "-6"`},
		{v1beta1.Int, "", "9223372036854775806", "9223372036854775807", `expected at most 9223372036854775806, found "9223372036854775807"`},
		{v1beta1.Int, "10", "", "9", `expected at least 10, found "9"`}, // not as texts, of which "10" is the lesser
		{v1beta1.Int, "low", "0x3", "100", ""},
		{v1beta1.Float, "0.1", "0.1", "0.1", ""},
		{v1beta1.Double, "-1e3", "1e3", "1000.0001", `expected at most 1e3, found "1000.0001"`},
		{v1beta1.String, "b", "c", "a", ""},
		{v1beta1.Boolean, "1", "1", "false", ""},
	} {
		err := CheckRange(v1beta1.ModelProperty{Type: c.kind, Minimum: c.minimum, Maximum: c.maximum}, c.text)
		if got := errorText(err); got != c.error {
			t.Errorf("%s %q within %q..%q: %q, expected %q", c.kind, c.text, c.minimum, c.maximum, got, c.error)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestOneValueHasSeveralTexts(t *testing.T) {
	for _, c := range []struct {
		kind v1beta1.PropertyType
		a, b string
		same bool
	}{
		{v1beta1.Int, "45", "+45", true}, {v1beta1.Int, "45", "045", true}, {v1beta1.Int, "45", "46", false}, {v1beta1.Int, "45", "45.0", false},
		{v1beta1.Float, "1.5", "1.50", true}, {v1beta1.Float, "0.1", "0.10000000149011612", true}, {v1beta1.Double, "0.1", "0.10000000149011612", false},
		{v1beta1.Double, "1e3", "1000", true}, {v1beta1.Double, "NaN", "NaN", true}, {v1beta1.Boolean, "true", "1", true}, {v1beta1.Boolean, "true", "0", false},
		{v1beta1.String, "1", "01", false}, {"", "1", "1.0", false}, {v1beta1.Boolean, "yes", "yes", true}, {v1beta1.Boolean, "yes", "on", false},
	} {
		if Same(c.kind, c.a, c.b) != c.same || Same(c.kind, c.b, c.a) != c.same {
			t.Errorf("%s %q and %q: same is not %t", c.kind, c.a, c.b, c.same)
		}
	}
}

// FuzzValues: what is accepted can be read as its type by anyone, and nothing panics.
func FuzzValues(f *testing.F) {
	for _, text := range []string{"1", "-1.5e3", "true", "NaN", "\xff", "9223372036854775808", strings.Repeat("9", 400)} {
		f.Add("INT", text, "0")
		f.Add("DOUBLE", text, text)
	}
	f.Fuzz(func(t *testing.T, kind, text, limit string) {
		p := v1beta1.ModelProperty{Type: v1beta1.PropertyType(kind), Minimum: limit, Maximum: text}
		err := CheckValue(p.Type, text)
		if err != nil && (len(err.Error()) > 1000 || !utf8.ValidString(err.Error())) {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if err := CheckRange(p, text); err != nil && len(err.Error()) > len(limit)+len(text)+1000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if !Same(p.Type, text, text) || Same(p.Type, text, limit) != Same(p.Type, limit, text) {
			t.Errorf("%s %q and %q: Same depends on the order", kind, text, limit)
		}
		switch p.Type {
		case v1beta1.Int:
			if _, failed := strconv.ParseInt(text, 10, 64); (failed == nil) != (err == nil) {
				t.Errorf("INT %q: %v", text, err)
			}
		case v1beta1.Float, v1beta1.Double:
			if n, failed := strconv.ParseFloat(text, 64); err == nil && (failed != nil || math.IsInf(n, 0) || math.IsNaN(n)) {
				t.Errorf("%s %q is accepted", kind, text)
			}
		}
	})
}
