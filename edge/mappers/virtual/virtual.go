// Package virtual is the driver of simulated devices: each property follows a waveform, or what is desired of it. The mapper of
// that name uses it, to try out manifests, models and clouds without any device. The same configuration gives the same course.
package virtual

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tether-edge/tether/common/mapper"
)

// visitor is a property's visitors.configData.
type visitor struct {
	// Wave is constant, sine, ramp, square, random or counter; absent for a property that is set.
	Wave string `json:"wave"`
	// Value is that of constant, and of a property that is set before it is: text, number or true and false.
	Value any `json:"value"`
	// Min and Max bound the waves; 0 and 100 where both are absent.
	Min float64 `json:"min"`
	Max float64 `json:"max"`
	// Period is how long a wave takes, and how long random and counter stay, in ms; 60,000 if absent, for those two 1,000.
	Period float64 `json:"period"`
	// Seed gives random another course.
	Seed int64 `json:"seed"`
	// Lag is how long a property that is set takes to change, in ms.
	Lag float64 `json:"lag"`
}

// waves are courses from 0 to 1. at counts periods.
var waves = map[string]func(v visitor, at float64) float64{
	"sine":   func(_ visitor, at float64) float64 { return (1 + math.Sin(2*math.Pi*at)) / 2 },
	"ramp":   func(_ visitor, at float64) float64 { return at - math.Floor(at) },
	"square": func(_ visitor, at float64) float64 { return math.Mod(math.Floor(at*2), 2) },
	"random": func(v visitor, at float64) float64 {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %d", v.Seed, int64(at))
		// Its high bits alone are far from even: mixed as in splitmix64.
		z := h.Sum64()
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return float64((z^z>>31)>>11) / (1 << 53)
	},
}

// machine is one simulated device. It is called by one goroutine.
type machine struct {
	now    func() time.Time
	begun  time.Time
	values map[string]setting
}

// setting is a value that was set, before until as it was before.
type setting struct {
	before, after string
	until         time.Time
}

// Open makes a device; there is nothing that it could fail to reach.
func Open(_ context.Context, _ mapper.Device) (mapper.Driver, error) {
	return newMachine(time.Now), nil
}

func newMachine(now func() time.Time) *machine {
	return &machine{now: now, begun: now(), values: map[string]setting{}}
}

func (m *machine) Close() error { return nil }

func read(p mapper.Property) (v visitor, err error) {
	if err := p.Config.Into(&v); err != nil {
		return v, fmt.Errorf("%w: visitors.configData: %w", mapper.ErrProperty, err)
	}
	if v.Min == 0 && v.Max == 0 {
		v.Max = 100
	}
	if v.Period <= 0 {
		v.Period = 60_000
		if v.Wave == "random" || v.Wave == "counter" {
			v.Period = 1000
		}
	}
	return v, nil
}

// Read returns where the property is now.
func (m *machine) Read(_ context.Context, p mapper.Property) (string, error) {
	v, err := read(p)
	if err != nil {
		return "", err
	}
	now := m.now()
	at := float64(now.Sub(m.begun)) / float64(time.Millisecond) / v.Period
	switch v.Wave {
	case "":
		return m.set(p, v, now), nil
	case "constant":
		return plain(p, v), nil
	case "counter":
		return number(p, v.Min+math.Floor(at)), nil
	}
	wave := waves[v.Wave]
	if wave == nil {
		return "", fmt.Errorf("%w: wave: expected constant, sine, ramp, square, random, counter or none, found %q", mapper.ErrProperty, v.Wave)
	}
	return number(p, v.Min+(v.Max-v.Min)*wave(v, at)), nil
}

func (m *machine) set(p mapper.Property, v visitor, now time.Time) string {
	s, ok := m.values[p.Name]
	switch {
	case !ok:
		return plain(p, v)
	case now.Before(s.until):
		return s.before
	}
	return s.after
}

// Write sets a property that has no wave.
func (m *machine) Write(_ context.Context, p mapper.Property, value string) error {
	v, err := read(p)
	if err != nil {
		return err
	}
	if v.Wave != "" {
		return fmt.Errorf("%w: it follows a %s and cannot be set", mapper.ErrProperty, v.Wave)
	}
	now := m.now()
	if s, ok := m.values[p.Name]; ok && s.after == value && now.Before(s.until) {
		return nil // on its way
	}
	m.values[p.Name] = setting{before: m.set(p, v, now), after: value, until: now.Add(time.Duration(v.Lag * float64(time.Millisecond)))}
	return nil
}

// plain is the configured value, or the type's zero.
func plain(p mapper.Property, v visitor) string {
	switch value := v.Value.(type) {
	case nil:
		if p.Type == "STRING" || p.Type == "BYTES" {
			return ""
		}
		return number(p, 0)
	case string:
		return value
	case float64:
		return number(p, value)
	default:
		return fmt.Sprint(value)
	}
}

// number writes a number as the property's type has it; a BOOLEAN is true from one half on.
func number(p mapper.Property, f float64) string {
	switch strings.ToUpper(p.Type) {
	case "INT":
		return strconv.FormatInt(int64(math.Round(f)), 10)
	case "BOOLEAN":
		return strconv.FormatBool(f >= 0.5)
	}
	// Six decimals, and no negative zero.
	return strconv.FormatFloat(math.Round(f*1e6)/1e6+0, 'f', -1, 64)
}
