package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// site is CloudCores and edges in a time of its own: an edge that is sent away is a second or two on its way, to one of the others by chance.
type site struct {
	rand  *rand.Rand
	start time.Time
	cores []*simulated
	edges []*simulatedEdge
}

type simulated struct {
	balance balance
	peers   peers
	phase   int // of its looks, in seconds
	sent    map[*simulatedEdge]bool
	queue   []*simulatedEdge // those that it sends away before its next look
	useless bool
}

type simulatedEdge struct {
	at     int // the CloudCore; -1 on its way
	from   int
	arrive int // in seconds
}

func newSite(seed uint64, sessions ...int) *site {
	s := &site{rand: rand.New(rand.NewPCG(seed, 0)), start: time.Unix(1000, 0)}
	for i, n := range sessions {
		s.cores = append(s.cores, &simulated{peers: peers{}, phase: s.rand.IntN(10), sent: map[*simulatedEdge]bool{}})
		for range n {
			s.edges = append(s.edges, &simulatedEdge{at: i})
		}
	}
	return s
}

func (s *site) counts() []int {
	n := make([]int, len(s.cores))
	for _, e := range s.edges {
		if e.at >= 0 {
			n[e.at]++
		}
	}
	return n
}

// second is what happens in one; it returns how many edges were sent away.
func (s *site) second(t int) (sent int) {
	now := s.start.Add(time.Duration(t) * time.Second)
	for _, e := range s.edges {
		if e.at < 0 && e.arrive <= t {
			e.at = (e.from + 1 + s.rand.IntN(len(s.cores)-1)) % len(s.cores)
		}
	}
	for i, c := range s.cores {
		if t%10 == c.phase {
			n := s.counts()[i]
			for j, other := range s.cores {
				if j != i {
					other.peers.saw(fmt.Sprint(i), "", now, load{n, 1000000}, now)
				}
			}
			excess, useless := c.balance.look(c.peers, load{n, 1000000}, now)
			c.useless = c.useless || useless
			c.queue = nil
			for _, e := range s.edges {
				if e.at == i && !c.sent[e] && len(c.queue) < excess {
					c.queue = append(c.queue, e)
				}
			}
			s.rand.Shuffle(len(c.queue), func(i, j int) { c.queue[i], c.queue[j] = c.queue[j], c.queue[i] })
			c.balance.moved(len(c.queue))
		}
		for range (len(c.queue) + 9 - (t-c.phase+10)%10) / 10 {
			e := c.queue[0]
			c.queue = c.queue[1:]
			if e.at == i {
				c.sent[e] = true
				e.at, e.from, e.arrive = -1, i, t+1+s.rand.IntN(2)
				sent++
			}
		}
	}
	return sent
}

// Whatever the edges' luck is: nobody takes moving them for useless, and it comes to an end.
func TestEdgesThatChooseByChanceEvenOut(t *testing.T) {
	for _, c := range []struct {
		seeds    uint64
		sessions []int
	}{
		{200, []int{52, 64, 84}}, {200, []int{130, 70, 0}}, {50, []int{200, 0, 0}}, {50, []int{150, 150, 0}}, {100, []int{40, 20, 0}}, {100, []int{80, 60, 58}}, {2, []int{5000, 5000, 0}}, {30, []int{1, 2, 300}}, {100, []int{100, 0}},
		{30, []int{300, 300, 300, 0}}, {50, []int{90, 60, 60, 60, 60, 60}}, {20, []int{1000, 1000, 1000, 1000, 1000, 1000, 0}},
	} {
		worst := 0
		for seed := range c.seeds {
			s := newSite(seed, c.sessions...)
			last := 0
			for sec := range 600 {
				if s.second(sec) > 0 {
					last = sec
				}
			}
			worst = max(worst, last)
			even := (len(s.edges) + len(s.cores) - 1) / len(s.cores)
			if most := slices.Max(s.counts()); most > max(even+even/10, even+slack)+1 {
				t.Errorf("%v, seed %d: %v, expected no CloudCore to have a tenth more than %d", c.sessions, seed, s.counts(), even)
			}
			for i, core := range s.cores {
				if core.useless {
					t.Errorf("%v, seed %d: CloudCore %d took it for useless", c.sessions, seed, i)
				}
			}
		}
		if worst > 400 {
			t.Errorf("%v: an edge was sent away after %d s, expected that to be over by 400 s", c.sessions, worst)
		}
	}
}
