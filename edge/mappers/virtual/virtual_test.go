package virtual

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/mapper"
)

// course reads a property at each of times, in ms.
func course(t *testing.T, kind, config string, times ...int) (out []string) {
	t.Helper()
	begun := time.Unix(0, 0)
	now := begun
	m := newMachine(func() time.Time { return now })
	for _, at := range times {
		now = begun.Add(time.Duration(at) * time.Millisecond)
		text, err := m.Read(t.Context(), mapper.Property{Name: "p", Type: kind, Config: mapper.Config(config)})
		if err != nil {
			t.Fatalf("%s: %v", config, err)
		}
		out = append(out, text)
	}
	return out
}

func TestWaves(t *testing.T) {
	for _, c := range []struct {
		kind, config string
		times        []int
		want         string
	}{
		{"FLOAT", `{"wave": "sine", "period": 1000, "min": -10, "max": 10}`, []int{0, 250, 500, 750, 1000}, "0 10 0 -10 0"},
		{"INT", `{"wave": "ramp", "period": 1000}`, []int{0, 100, 999, 1000, 1500}, "0 10 100 0 50"},
		{"BOOLEAN", `{"wave": "square", "period": 1000, "max": 1}`, []int{0, 499, 500, 999, 1000}, "false false true true false"},
		{"INT", `{"wave": "counter", "period": 10, "min": 5, "max": 6}`, []int{0, 9, 10, 100}, "5 5 6 15"},
		{"STRING", `{"wave": "constant", "value": "on"}`, []int{0, 1}, "on on"},
		{"DOUBLE", `{"wave": "constant", "value": 1.5}`, []int{0}, "1.5"},
		{"BOOLEAN", `{"wave": "constant", "value": true}`, []int{0}, "true"},
		{"INT", ``, []int{0}, "0"},
	} {
		got := course(t, c.kind, c.config, c.times...)
		if found := strings.Join(got, " "); found != c.want {
			t.Errorf("%s %s: expected %s, found %s", c.kind, c.config, c.want, found)
		}
	}
}

func TestRandomIsTheSameForTheSameSeed(t *testing.T) {
	times := []int{0, 1000, 2000, 3000, 4000, 5000}
	one, again := course(t, "INT", `{"wave": "random", "seed": 1, "max": 1000000}`, times...), course(t, "INT", `{"wave": "random", "seed": 1, "max": 1000000}`, times...)
	other := course(t, "INT", `{"wave": "random", "seed": 2, "max": 1000000}`, times...)
	if !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Errorf("found %v, %v, %v", one, again, other)
	}
	slices.Sort(one)
	if len(slices.Compact(one)) != len(times) {
		t.Errorf("found %v", one)
	}
}

func TestAPropertyFollowsWhatIsDesiredAfterItsLag(t *testing.T) {
	now := time.Unix(0, 0)
	m := newMachine(func() time.Time { return now })
	p := mapper.Property{Name: "p", Type: "INT", Config: mapper.Config(`{"value": 20, "lag": 1000}`)}
	read := func(want string) {
		t.Helper()
		if found, err := m.Read(t.Context(), p); err != nil || found != want {
			t.Errorf("expected %s, found %s, %v", want, found, err)
		}
	}
	write := func(value string) {
		t.Helper()
		if err := m.Write(t.Context(), p, value); err != nil {
			t.Error(err)
		}
	}
	read("20")
	write("45")
	now = now.Add(999 * time.Millisecond)
	write("45") // again, as a mapper does that waits: the way is not longer for it
	read("20")
	now = now.Add(time.Millisecond)
	read("45")
	p.Config = mapper.Config(`{"wave": "sine"}`)
	if err := m.Write(t.Context(), p, "1"); !errors.Is(err, mapper.ErrProperty) {
		t.Errorf("expected a wave not to be set, found %v", err)
	}
	for _, config := range []string{`{"wave": "tsunami"}`, `{"min": "x"}`} {
		p.Config = mapper.Config(config)
		if _, err := m.Read(t.Context(), p); !errors.Is(err, mapper.ErrProperty) {
			t.Errorf("%s: expected to be refused, found %v", config, err)
		}
	}
}
