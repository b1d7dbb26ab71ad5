package replica

import (
	"testing"
	"time"
)

func TestItIsJudgedWhetherMovingHelps(t *testing.T) {
	start := time.Unix(1000, 0)
	type look struct {
		all, open, sent int // open is how many those have that have room
		may             bool
	}
	for name, c := range map[string]struct {
		others, room int
		looks        []look
	}{
		"they come to who has room":      {1, 100, []look{{300, 0, 30, true}, {300, 0, 30, true}, {300, 30, 30, true}, {300, 60, 0, true}}},
		"a third of them do":             {1, 100, []look{{300, 0, 30, true}, {300, 5, 30, true}, {300, 12, 30, true}, {300, 25, 0, true}}},
		"none does":                      {1, 100, []look{{300, 0, 30, true}, {300, 0, 30, true}, {300, 0, 0, false}, {300, 0, 0, false}}},
		"of few it may be luck":          {1, 100, []look{{300, 0, 24, true}, {300, 0, 24, true}, {300, 0, 24, true}, {300, 0, 0, false}}},
		"chance brings few there":        {4, 100, []look{{300, 0, 40, true}, {300, 0, 40, true}, {300, 0, 40, true}, {300, 0, 40, true}, {300, 0, 0, false}}},
		"one look says nothing":          {1, 100, []look{{300, 0, 30, true}, {300, 0, 0, true}, {300, 0, 30, true}, {300, 0, 0, true}}},
		"there is little room":           {1, 10, []look{{60, 0, 30, true}, {60, 0, 30, true}, {60, 0, 0, false}}},
		"edges come from elsewhere, too": {1, 100, []look{{300, 0, 30, true}, {400, 0, 30, true}, {600, 0, 30, true}, {600, 0, 30, true}, {600, 0, 0, false}}},
		"one more comes":                 {1, 100, []look{{300, 0, 30, true}, {300, 0, 30, true}, {300, -1, 30, true}, {300, 0, 30, true}}},
	} {
		var p progress
		for i, l := range c.looks {
			s := share{all: l.all, room: c.room, sessions: map[string]int{"open": l.open}, open: []string{"open"}}
			for n := range c.others - 1 {
				s.sessions[string(rune('a'+n))] = 100
			}
			if l.open < 0 {
				s.sessions["another"] = 0
			}
			may, useless := p.look(s, start.Add(time.Duration(i)*every))
			if may != l.may || useless && may {
				t.Errorf("%s: look %d: may %t, useless %t, expected %t", name, i, may, useless, l.may)
			}
			if may {
				p.moved(s, l.sent)
			}
		}
	}
}

func TestWhatIsOfNoUseIsTriedLessAndLessOften(t *testing.T) {
	var p progress
	at := time.Unix(1000, 0)
	s := share{all: 300, room: 100, sessions: map[string]int{"open": 0}, open: []string{"open"}}
	vain := func() (waited time.Duration) {
		t.Helper()
		for range 3 {
			if may, _ := p.look(s, at); may {
				p.moved(s, 30)
			}
		}
		for began := at; ; at = at.Add(time.Minute) {
			if may, _ := p.look(s, at); may {
				return at.Sub(began)
			}
		}
	}
	for i, want := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 16 * time.Hour} {
		if got := vain(); got != want {
			t.Errorf("time %d: none was sent for %s, expected %s", i, got, want)
		}
	}
	// Once it helps all is forgotten.
	p.moved(s, 30)
	p.moved(s, 30)
	if may, _ := p.look(share{all: 300, room: 70, sessions: map[string]int{"open": 30}, open: []string{"open"}}, at); !may {
		t.Error("it helps, and is given up")
	}
	p = progress{vain: p.vain}
	if got := vain(); got != time.Hour {
		t.Errorf("after it helped none was sent for %s, expected an hour", got)
	}
}
