package replica

import (
	"slices"
	"time"
)

// balance decides how many edges are sent away. Its zero value is ready; it belongs to one goroutine.
type balance struct {
	progress progress
	now      share
}

// look is what a CloudCore with that load does at the moment at: it sends excess edges away, and tells that by moved. useless tells the
// moment in which it finds that this does not help.
func (b *balance) look(p peers, own load, at time.Time) (excess int, useless bool) {
	b.now = p.share(own, b.progress.going(), at)
	may, useless := b.progress.look(b.now, at)
	if !may {
		return 0, useless
	}
	return b.now.excess, useless
}

// moved takes note of how many edges were sent away after a look.
func (b *balance) moved(sent int) { b.progress.moved(b.now, sent) }

// A share is what there is to even out: how many edges a CloudCore is to move elsewhere now, how many all have together, how many each of
// the others has, which of them have less than an even share, and how many those have room for until then.
type share struct {
	excess, all int
	sessions    map[string]int
	open        []string
	room        int
}

// share looks at it from a CloudCore with that load; it is zero while nothing may be moved. going tells that it has begun.
func (p peers) share(own load, going bool, now time.Time) share {
	n, others, plain := p.state(now)
	if !plain || n == 0 {
		return share{}
	}
	s := share{all: own.sessions + others, sessions: map[string]int{}}
	loads := []load{own}
	for name, k := range p {
		if k.lives && now.Sub(k.changed) < silent {
			loads = append(loads, k.load)
			s.sessions[name] = k.sessions
		}
	}
	even := evenly(loads, s.all)
	for name := range s.sessions {
		if room := p[name].atMost(even) - s.sessions[name]; room > 0 {
			s.open = append(s.open, name)
			s.room += room
		}
	}
	most := even + slack
	if !going {
		most = max(most, even+even/10)
	}
	if own.sessions > most {
		s.excess = min(own.sessions-even, max(atOnce, own.sessions/10))
	}
	return s
}

// atMost is n, or what the CloudCore takes if that is less.
func (l load) atMost(n int) int {
	if l.most > 0 {
		return min(n, l.most)
	}
	return n
}

// evenly returns the even share of all sessions, rounded up: what each has that takes so many, where those that take fewer are full.
func evenly(loads []load, all int) int {
	open := slices.Clone(loads)
	for {
		even := (all + len(open) - 1) / len(open)
		rest := slices.DeleteFunc(slices.Clone(open), func(l load) bool { return l.atMost(even) < even })
		if len(rest) == 0 || len(rest) == len(open) {
			return even
		}
		for _, l := range open {
			if full := l.atMost(even); full < even {
				all -= full
			}
		}
		open = rest
	}
}

// Where edges choose by chance, as many go to those that have room as those are among the others. Of how many that is it is judged whether
// sending them is of use: of fewer it is luck. pause is for how long none is sent where it is not; it doubles each time.
const (
	judged   = 25
	pause    = time.Hour
	pauseMax = 16 * time.Hour
)

// progress is that of moving edges.
type progress struct {
	looks int   // at which edges were moved, in a row
	from  share // what there was when that began
	// known is how many were sent since then that the others have told of by now if they came, and last how many after the latest look.
	known, last int
	until       time.Time
	vain        int // times in a row that it was of no use
}

func (p *progress) going() bool { return p.looks > 0 }

// look says whether edges may be sent away now. Those that were sent must have come to where there is room: where three quarters of those
// that chance brings there have not, they know no CloudCore that has. useless tells the moment in which that is found.
func (p *progress) look(now share, at time.Time) (may, useless bool) {
	if at.Before(p.until) {
		return false, false
	}
	if !p.going() {
		return true, false
	}
	due := p.known * len(p.from.open) / len(p.from.sessions)
	came, same := p.from.came(now)
	switch {
	case !same:
		*p = progress{vain: p.vain} // CloudCores come and go, or edges do: nothing can be said
	case due >= judged && came < due/4:
		*p = progress{until: at.Add(min(pause<<p.vain, pauseMax)), vain: min(p.vain+1, 8)}
		return false, true
	case due >= judged:
		p.vain = 0
	}
	return true, false
}

// came is how many edges more those have by now that had room. same reports whether there is nothing else that changed.
func (s share) came(now share) (n int, same bool) {
	for _, name := range s.open {
		has, there := now.sessions[name]
		if !there {
			return 0, false
		}
		n += has - s.sessions[name]
	}
	// Those that are on their way are a tenth of all.
	changed := now.all - s.all
	return n, len(now.sessions) == len(s.sessions) && max(changed, -changed) <= s.all/4
}

// moved takes note of how many were sent away.
func (p *progress) moved(before share, sent int) {
	if sent == 0 {
		*p = progress{until: p.until, vain: p.vain}
		return
	}
	if p.looks == 0 {
		p.from = before
	}
	p.looks++
	p.known += p.last
	p.last = sent
}
