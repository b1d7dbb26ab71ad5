package horizon

import (
	"slices"
	"time"
)

// A Rate is how fast something grows, as far as that can be told.
type Rate struct {
	// PerSecond is in bytes, or whatever is counted; 0 for what does not grow, or has not been watched for long enough.
	PerSecond float64
	// Reach is how far ahead it may be believed.
	Reach time.Duration
}

// reach is how many times as far as it has seen a forecast looks ahead.
const reach = 8

// until is when a rest of that many bytes is used up; ok is false if that is not known, or too far away to tell.
func (r Rate) until(at time.Time, rest int64) (t time.Time, ok bool) {
	if r.PerSecond <= 0 {
		return time.Time{}, false
	}
	seconds := float64(max(0, rest)) / r.PerSecond
	if seconds > r.Reach.Seconds() {
		return time.Time{}, false
	}
	return at.Add(time.Duration(seconds * float64(time.Second))), true
}

// A series is what was measured of something in the last while.
type series struct {
	// every is the least time between two points, window how long they are kept, span how much of it is needed for an
	// answer, noise the bytes below which a change is none.
	every, window, span time.Duration
	noise               int64

	points []point
	rate   Rate // of the points
}

type point struct {
	at    time.Duration // on a clock that nobody sets
	bytes int64
}

func (s *series) add(at time.Duration, bytes int64) {
	if n := len(s.points); n > 0 && at-s.points[n-1].at < s.every {
		return
	}
	s.points = append(s.points, point{at, bytes})
	for at-s.points[0].at > s.window {
		s.points = s.points[1:]
	}
	s.rate = s.estimate()
}

// estimate is the median of the slopes between any two points (Theil and Sen's estimate), which a few steps do not move. It
// counts as growth if three quarters of the slopes rise: after one download half of them do, whatever its size.
func (s *series) estimate() Rate {
	n := len(s.points)
	if n < 3 {
		return Rate{}
	}
	span := s.points[n-1].at - s.points[0].at
	if span < s.span {
		return Rate{}
	}
	slopes := make([]float64, 0, n*(n-1)/2)
	for i, a := range s.points {
		for _, b := range s.points[i+1:] {
			slopes = append(slopes, float64(b.bytes-a.bytes)/(b.at-a.at).Seconds())
		}
	}
	slices.Sort(slopes)
	slope := slopes[len(slopes)/2]
	if slopes[len(slopes)/4] <= 0 || slope*span.Seconds() < float64(s.noise) {
		return Rate{}
	}
	return Rate{PerSecond: slope, Reach: reach * span}
}
