package modbus

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// arrange turns the bytes of registers into those of a value with its highest byte first, and back.
func (at place) arrange(data []byte) []byte {
	out := slices.Clone(data)
	if at.order {
		for i, j := 0, len(out)-2; i < j; i, j = i+2, j-2 {
			out[i], out[i+1], out[j], out[j+1] = out[j], out[j+1], out[i], out[i+1]
		}
	}
	if at.swap {
		for i := 0; i+1 < len(out); i += 2 {
			out[i], out[i+1] = out[i+1], out[i]
		}
	}
	return out
}

// decode returns the text of the bytes of at.count registers, for a property of the type.
func (at place) decode(data []byte, kind string) (string, error) {
	if len(data) != 2*int(at.count) {
		return "", fmt.Errorf("expected %d bytes, found %d", 2*at.count, len(data))
	}
	b := at.arrange(data)
	if at.data == "text" {
		return strings.ToValidUTF8(strings.TrimRight(string(b), "\x00"), "\uFFFD"), nil
	}
	raw := uint64(0)
	for _, c := range b {
		raw = raw<<8 | uint64(c)
	}
	var f float64
	switch at.data {
	case "float32":
		f = float64(math.Float32frombits(uint32(raw)))
		if kind == "DOUBLE" {
			kind = "FLOAT" // its further digits are none of the device's
		}
	case "float64":
		f = math.Float64frombits(raw)
	default:
		bits := 8 * len(b)
		signed := int64(raw<<(64-bits)) >> (64 - bits)
		whole := kind == "INT" && at.scale == 1
		switch {
		case at.data[0] == 'u' && whole:
			return strconv.FormatUint(raw, 10), nil
		case whole:
			return strconv.FormatInt(signed, 10), nil
		case at.data[0] == 'u':
			f = float64(raw)
		default:
			f = float64(signed)
		}
	}
	return format(f*at.scale, kind)
}

func format(f float64, kind string) (string, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return "", fmt.Errorf("expected a number, found %v", f)
	case kind == "INT":
		return strconv.FormatFloat(math.Round(f), 'f', 0, 64), nil
	case kind == "BOOLEAN":
		return strconv.FormatBool(f != 0), nil
	case kind == "FLOAT":
		return strconv.FormatFloat(f, 'f', -1, 32), nil
	}
	// 15 digits are sure, and hide what the scale adds: 213 * 0.1.
	short, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 15, 64), 64)
	return strconv.FormatFloat(short, 'f', -1, 64), err
}

// encode is the reverse of decode. The error says why the value cannot be in the registers.
func (at place) encode(text, kind string) ([]byte, error) {
	size := 2 * int(at.count)
	b := make([]byte, 8)
	if at.data == "text" {
		if len(text) > size {
			return nil, fmt.Errorf("expected at most %d bytes, found %d", size, len(text))
		}
		return at.arrange(append([]byte(text), make([]byte, size-len(text))...)), nil
	}
	raw, err := at.raw(text, kind)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint64(b, raw)
	data := at.arrange(b[8-size:])
	// What would be read back as another value is none that the device can have.
	if nearest, err := at.decode(data, kind); err != nil || !device.Same(v1beta1.PropertyType(kind), nearest, text) {
		return nil, fmt.Errorf("expected a value that %s holds%s, found %.64q: the nearest is %s", at.data, at.scaled(), text, nearest)
	}
	return data, nil
}

// scaled names the scale, where there is one.
func (at place) scaled() string {
	if at.scale == 1 {
		return ""
	}
	return " at scale " + strconv.FormatFloat(at.scale, 'g', -1, 64)
}

func (at place) raw(text, kind string) (uint64, error) {
	if kind == "BOOLEAN" {
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return 0, fmt.Errorf("expected true or false, found %.64q", text)
		}
		if !yes {
			return 0, nil
		}
		text = strconv.FormatFloat(at.scale, 'g', -1, 64) // 1 in the register
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("expected a number, found %.64q", text)
	}
	f /= at.scale
	switch at.data {
	case "float32":
		return uint64(math.Float32bits(float32(f))), nil
	case "float64":
		return math.Float64bits(f), nil
	}
	bits := 16 * int(at.count)
	if at.data[0] == 'u' {
		if at.scale == 1 {
			if n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, bits); err == nil {
				return n, nil // exact beyond 53 bits
			}
		}
		if f = math.Round(f); f < 0 || f >= math.Ldexp(1, bits) {
			return 0, fmt.Errorf("expected a value that %s holds%s, found %.64q", at.data, at.scaled(), text)
		}
		return uint64(f), nil
	}
	if at.scale == 1 {
		if n, err := strconv.ParseInt(text, 10, bits); err == nil {
			return uint64(n), nil
		}
	}
	if f = math.Round(f); f < -math.Ldexp(1, bits-1) || f >= math.Ldexp(1, bits-1) {
		return 0, fmt.Errorf("expected a value that %s holds%s, found %.64q", at.data, at.scaled(), text)
	}
	return uint64(int64(f)), nil
}
