package replica

import (
	"testing"
	"time"
)

func TestEdgesMoveOnlyFromWhoHasMoreThanAnEvenShareAndWhileItIsPlainWhoRuns(t *testing.T) {
	start := time.Unix(1000, 0)
	// beat is a CloudCore that is seen at each of these seconds, with so many sessions.
	type beat struct {
		sessions int
		seconds  []int
		most     int // it takes; any number if 0
	}
	alive := []int{0, 10, 20}
	for name, c := range map[string]struct {
		own    int
		others []beat
		want   int
		going  int // expected where it has begun; want if 0
	}{
		"alone":                                {10000, nil, 0, 0},
		"even":                                 {1000, []beat{{1000, alive, 0}}, 0, 0},
		"a tenth more is let be":               {1099, []beat{{900, alive, 0}}, 0, 99},
		"few":                                  {8, []beat{{0, alive, 0}}, 0, 0}, // 5 more than its share are let be
		"an empty one beside two full ones":    {1500, []beat{{1500, alive, 0}, {0, alive, 0}}, 150, 0},
		"no more than it has too many":         {150, []beat{{100, alive, 0}}, 25, 0},
		"a rest":                               {60, []beat{{30, alive, 0}}, 15, 0},
		"seen once only":                       {1000, []beat{{0, []int{20}, 0}}, 0, 0},
		"one is late":                          {1000, []beat{{0, alive, 0}, {0, []int{-10, 0}, 0}}, 0, 0},
		"one is gone":                          {1000, []beat{{0, alive, 0}, {5000, []int{-30, -20}, 0}}, 100, 0},
		"one left a Lease behind long ago":     {1000, []beat{{0, alive, 0}, {5000, []int{-60}, 0}}, 100, 0},
		"all others are gone":                  {1000, []beat{{0, []int{-30, -20}, 0}}, 0, 0},
		"the less loaded one sends nobody":     {100, []beat{{1000, alive, 0}}, 0, 0},
		"one that was seen once is waited for": {1000, []beat{{0, alive, 0}, {0, []int{15}, 0}}, 0, 0},
		"the others are full":                  {2000, []beat{{1000, alive, 1000}, {500, alive, 500}}, 0, 0},
		"one is full, one is not":              {2000, []beat{{100, alive, 100}, {1500, alive, 5000}}, 200, 0},
		"one has room for a few":               {1200, []beat{{900, alive, 1000}}, 0, 100},
		"shares are rounded up: 32.7 are 33":   {38, []beat{{30, alive, 0}, {30, alive, 0}}, 0, 0},
	} {
		p := peers{}
		for s := -100; s <= 20; s++ {
			for i, o := range c.others {
				for _, at := range o.seconds {
					if at == s {
						now := start.Add(time.Duration(s) * time.Second)
						p.saw(string(rune('a'+i)), "", now, load{o.sessions, o.most}, now)
					}
				}
			}
		}
		if got := p.share(load{c.own, 10000}, false, start.Add(22*time.Second)).excess; got != c.want {
			t.Errorf("%s: %d are moved, expected %d", name, got, c.want)
		}
		if got := p.share(load{c.own, 10000}, true, start.Add(22*time.Second)).excess; got != max(c.want, c.going) {
			t.Errorf("%s, and it has begun: %d are moved, expected %d", name, got, max(c.want, c.going))
		}
	}
}

// The clock of another CloudCore says nothing.
func TestWhatCountsIsThatALeaseChanges(t *testing.T) {
	now := time.Unix(1000, 0)
	p := peers{}
	past := now.Add(-24 * time.Hour)
	p.saw("a", "1", past, load{}, now)
	p.saw("a", "1", past, load{}, now.Add(every)) // a listing anew, not a renewal
	if n, _, plain := p.state(now.Add(every)); n != 0 || plain {
		t.Errorf("a Lease that did not change: %d others, plain %t, expected 0 and false", n, plain)
	}
	p.saw("a", "1", past.Add(time.Second), load{sessions: 7}, now.Add(every))
	if n, sessions, plain := p.state(now.Add(every)); n != 1 || sessions != 7 || !plain {
		t.Errorf("a Lease that changed: %d others with %d, plain %t, expected 1, 7 and true", n, sessions, plain)
	}
	if left := p.left(now.Add(every + forgotten - 1)); len(left) != 0 {
		t.Errorf("%v is to be removed too early", left)
	}
	if left := p.left(now.Add(every + forgotten)); len(left) != 1 {
		t.Errorf("%v is to be removed, expected a", left)
	}
}
