package v1alpha1

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as Go writes it: "250ms", "15s", "1h30m".
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string {
	// Go writes an hour as 1h0m0s; the zeros only hide the number.
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON writes the string form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the string form. A bare number has no unit and is refused, but for 0.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s, ok := unquote(b)
	v, err := time.ParseDuration(s)
	if err != nil || !ok && s != "0" {
		return fmt.Errorf("duration %s: expected a number with a unit, such as 250ms, 15s or 1h", b)
	}
	*d = Duration(v)
	return nil
}

// Bytes is an amount of data, written as a number of bytes or with a binary unit: "64Ki", "1Mi", "2Gi", "1Ti".
type Bytes int64

var units = []struct {
	suffix string
	size   Bytes
}{{"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}}

func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalJSON writes the string form.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal(b.String()) }

// UnmarshalJSON reads a number of bytes or a string with a binary unit.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	s, _ := unquote(data)
	size := Bytes(1)
	for _, u := range units {
		// "1MiB" is how people write it; the B changes nothing.
		if n, ok := strings.CutSuffix(strings.TrimSuffix(s, "B"), u.suffix); ok {
			s, size = n, u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || Bytes(n) > math.MaxInt64/size {
		return fmt.Errorf("amount of data %s: expected a whole number with a unit of Ki, Mi, Gi, Ti or none, such as 64Mi", data)
	}
	*b = Bytes(n) * size
	return nil
}

// unquote returns what a JSON string or number says. ok is true for a string.
func unquote(b []byte) (s string, ok bool) {
	if json.Unmarshal(b, &s) == nil {
		return s, true
	}
	return string(b), false
}
