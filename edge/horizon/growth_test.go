package horizon

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fill adds a day of points, at each of which the disk holds what used says.
func fill(used func(hour float64) int64) *series {
	s := diskSeries
	for at := time.Duration(0); at <= day; at += s.every {
		s.add(at, used(at.Hours()))
	}
	return &s
}

const mebi = 1 << 20

func TestGrowthIsToldFromWhatIsNone(t *testing.T) {
	for name, used := range map[string]func(hour float64) int64{
		"nothing moves":        func(float64) int64 { return 1 << 30 },
		"one large download":   func(h float64) int64 { return int64(1<<30 + 4000*mebi*math.Floor(h/13)) },
		"two downloads":        func(h float64) int64 { return int64(1<<30 + 4000*mebi*math.Floor(h/8.5)) },
		"logs that are turned": func(h float64) int64 { return int64(math.Mod(h, 3) * 20 * mebi) },
		"a day's curve":        func(h float64) int64 { return int64(500 * mebi * math.Sin(h*math.Pi/12)) },
		"garbage is collected": func(h float64) int64 { return int64(10000*mebi - h*100*mebi) },
		"a trickle":            func(h float64) int64 { return int64(h * 0.5 * mebi) },
	} {
		if r := fill(used).rate; r.PerSecond != 0 {
			t.Errorf("%s: grows by %.1f MiB an hour", name, r.PerSecond*3600/mebi)
		}
	}
	steady := func(h float64) int64 {
		download := 0.0
		if h > 7 {
			download = 3000 * mebi // which is over
		}
		return int64(download + h*100*mebi)
	}
	if r := fill(steady).rate; math.Abs(r.PerSecond*3600/mebi-100) > 5 || r.Reach != 8*day {
		t.Errorf("100 MiB an hour beside a download: %.1f MiB an hour for %v", r.PerSecond*3600/mebi, r.Reach)
	}
}

func TestAForecastReachesAsFarAsWhatWasSeenAllows(t *testing.T) {
	s := diskSeries
	for at := time.Duration(0); at < s.span; at += s.every {
		if s.add(at, int64(at.Seconds())*mebi); s.rate.PerSecond != 0 {
			t.Fatalf("after %v growth is believed", at)
		}
	}
	s.add(s.span, int64(s.span.Seconds())*mebi)
	r := s.rate
	if r.PerSecond != mebi || r.Reach != reach*s.span {
		t.Fatalf("after %v: %+v", s.span, r)
	}
	seconds := int64(r.Reach.Seconds())
	if at, ok := r.until(noon, seconds*mebi); !ok || !at.Equal(noon.Add(r.Reach)) {
		t.Errorf("at the end of its reach: %v, %v", at, ok)
	}
	if at, ok := r.until(noon, (seconds+1)*mebi); ok {
		t.Errorf("beyond its reach: %v", at)
	}
	if at, ok := r.until(noon, -5); !ok || !at.Equal(noon) {
		t.Errorf("what is past: %v, %v", at, ok)
	}
	for at := s.span; at < 4*s.window; at += s.every / 3 {
		s.add(at, 0)
	}
	if n := len(s.points); n > int(s.window/s.every)+1 {
		t.Errorf("%d points are kept", n)
	}
}

// Noise that goes nowhere is no growth, and growth is found below noise that is smaller than it.
func TestNoiseIsNoGrowthAndHidesNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		noise := rapid.SliceOfN(rapid.Int64Range(-64*mebi, 64*mebi), 97, 97).Draw(t, "noise")
		perHour := rapid.Int64Range(40, 1000).Draw(t, "MiB an hour") * mebi
		i := 0
		next := func() int64 { i++; return noise[(i-1)%len(noise)] }
		r := fill(func(h float64) int64 { return int64(h*float64(perHour)) + next() }).rate
		if got := r.PerSecond * 3600; got < 0.6*float64(perHour) || got > 1.4*float64(perHour) {
			t.Fatalf("%d MiB an hour are found to be %.1f", perHour/mebi, got/mebi)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		// Each hour's noise comes back the next: nothing is left of it in the end.
		noise := rapid.SliceOfN(rapid.Int64Range(-64*mebi, 64*mebi), 4, 4).Draw(t, "noise")
		i := 0
		r := fill(func(float64) int64 { i++; return noise[(i-1)%len(noise)] }).rate
		if r.PerSecond != 0 {
			t.Fatalf("noise grows by %.1f MiB an hour", r.PerSecond*3600/mebi)
		}
	})
}
