package device

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// MetadataCall is the key of a desired value's metadata that names the method call which desires it: to a mapper the same
// value of another call is desired anew.
const MetadataCall = "call"

// MetadataError is the key of an observed desired value's metadata by which a mapper says why the device does not have it: what is
// desired cannot be written, or was written in vain.
const MetadataError = "error"

// CheckValue says whether text is a value of the type, as mappers read it:
//
//	INT      a decimal number of 64 bits: 42, -7, +3
//	FLOAT    a decimal number that 32 bits can hold, rounded: 1.5, -2e3; neither NaN nor infinite
//	DOUBLE   the same in 64 bits
//	BOOLEAN  true or false; also 1, t, T, TRUE, True, 0, f, F, FALSE, False
//	STRING   any text
//	BYTES    any text: mappers take its bytes as they are, so a protocol that needs other bytes has a notation of its own
//	STREAM   no value: the mapper handles frames itself
//
// An empty type allows anything. The error says what was expected and what was found, fit for a condition.
func CheckValue(t v1beta1.PropertyType, text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("expected text in UTF-8, found %s", quote(text))
	}
	switch t {
	case "", v1beta1.String, v1beta1.Bytes:
		return nil
	case v1beta1.Int:
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("expected a decimal number of 64 bits (%s), found %s", t, quote(text))
		}
	case v1beta1.Float, v1beta1.Double:
		if _, err := number(t, text); err != nil {
			return err
		}
	case v1beta1.Boolean:
		if _, err := strconv.ParseBool(text); err != nil {
			return fmt.Errorf("expected true or false (%s), found %s", t, quote(text))
		}
	case v1beta1.Stream:
		return fmt.Errorf("expected no value, since its mapper handles a %s itself, found %s", t, quote(text))
	default:
		return fmt.Errorf("expected a type among INT, FLOAT, DOUBLE, STRING, BOOLEAN, BYTES, STREAM, found %s", quote(string(t)))
	}
	return nil
}

// CheckMetadata says whether a value may have these metadata.
func CheckMetadata(metadata map[string]string) error {
	n := 0
	for k, text := range metadata {
		n += len(k) + len(text)
	}
	if n > v1beta1.MaxMetadataBytes || len(metadata) > v1beta1.MaxMetadata {
		return fmt.Errorf("expected at most %d entries of metadata with %d bytes, found %d with %d", v1beta1.MaxMetadata, v1beta1.MaxMetadataBytes, len(metadata), n)
	}
	return nil
}

// number parses a FLOAT or DOUBLE.
func number(t v1beta1.PropertyType, text string) (float64, error) {
	bits := 64
	if t == v1beta1.Float {
		bits = 32
	}
	n, err := strconv.ParseFloat(text, bits)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || !decimal(text) {
		return 0, fmt.Errorf("expected a decimal number of %d bits (%s), found %s", bits, t, quote(text))
	}
	return n, nil
}

// decimal says whether a number is written with nothing but digits, sign, point and exponent: ParseFloat knows more.
func decimal(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' && c != 'e' && c != 'E' {
			return false
		}
	}
	return true
}

// CheckRange says whether a value of the property is within its minimum and maximum. Those apply to numbers only. The
// value must have passed CheckValue; a limit that is itself no number of the type limits nothing (Judge reports it).
func CheckRange(p v1beta1.ModelProperty, text string) error {
	for _, limit := range []struct {
		text, word string
		sign       int
	}{{p.Minimum, "at least", -1}, {p.Maximum, "at most", 1}} {
		if limit.text == "" {
			continue
		}
		order, ok := compare(p.Type, text, limit.text)
		if ok && order == limit.sign {
			return fmt.Errorf("expected %s %s, found %s", limit.word, limit.text, quote(text))
		}
	}
	return nil
}

// CheckDesired says whether a value can be desired of the property of a model.
func CheckDesired(p *v1beta1.ModelProperty, text string) error {
	if p.AccessMode == v1beta1.ReadOnly {
		return fmt.Errorf("expected no desired value, since the model says ReadOnly, found %s", quote(text))
	}
	if err := CheckValue(p.Type, text); err != nil {
		return err
	}
	return CheckRange(*p, text)
}

// Same says whether two texts are the same value of the type, though written in another way: 45 and +45, 1.5 and 1.50, true
// and 1. Texts that are no values of it are compared as they are.
func Same(t v1beta1.PropertyType, a, b string) bool {
	if a == b {
		return true
	}
	if t == v1beta1.Boolean {
		x, errA := strconv.ParseBool(a)
		y, errB := strconv.ParseBool(b)
		return errA == nil && errB == nil && x == y
	}
	order, ok := compare(t, a, b)
	return ok && order == 0
}

// compare returns -1, 0 or 1; not ok where the two are not both numbers of the type.
func compare(t v1beta1.PropertyType, a, b string) (order int, ok bool) {
	switch t {
	case v1beta1.Int:
		x, errA := strconv.ParseInt(a, 10, 64)
		y, errB := strconv.ParseInt(b, 10, 64)
		return sign(x, y), errA == nil && errB == nil
	case v1beta1.Float, v1beta1.Double:
		x, errA := number(t, a)
		y, errB := number(t, b)
		return sign(x, y), errA == nil && errB == nil
	}
	return 0, false
}

func sign[T int64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// maxQuoted is how much of a value is shown, and maxMessage how much of a message: a condition's has room for 32 KiB.
const (
	maxQuoted  = 64
	maxMessage = 1000
)

// quote shows the beginning of a text, quoted.
func quote(text string) string {
	if len(text) <= maxQuoted {
		return strconv.Quote(text)
	}
	return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(head(text, maxQuoted)), len(text))
}

// cut shows the beginning of a message.
func cut(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return head(message, maxMessage) + "..."
}

// head returns at most n bytes of a text, and no half characters.
func head(text string, n int) string {
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
