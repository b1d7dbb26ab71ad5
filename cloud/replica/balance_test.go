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
		"there is little room":           {1, 24, []look{{300, 0, 30, true}, {300, 0, 30, true}, {300, 0, 30, true}, {300, 0, 30, true}}},
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
	p := progress{until: start.Add(pause)}
	if may, _ := p.look(share{}, start.Add(pause)); !may {
		t.Error("an hour later it is not tried again")
	}
}
