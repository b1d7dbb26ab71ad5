package transport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// numbered is a connection that knows when it came.
type numbered struct {
	net.Conn
	who string
	n   int
}

// Whatever comes and goes, those of one address stay in order, the longest line loses its latest, and the count is that of all.
func TestWaitingKeepsItsLines(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 1))
	w := newWaiting()
	lines := map[string][]int{}
	total := 0
	for n := range 20_000 {
		switch who := fmt.Sprint("address-", draw.IntN(50)); draw.IntN(4) {
		case 0, 1:
			w.add(who, &numbered{who: who, n: n})
			lines[who] = append(lines[who], n)
			total++
		case 2:
			l := w.lines[who]
			if (l == nil) != (len(lines[who]) == 0) {
				t.Fatalf("%s has a line: %v, of %d", who, l != nil, len(lines[who]))
			}
			if l == nil {
				continue
			}
			if c := w.first(l).(*numbered); c.who != who || c.n != lines[who][0] {
				t.Fatalf("the first of %s is %d of %s, expected %d", who, c.n, c.who, lines[who][0])
			}
			lines[who] = lines[who][1:]
			total--
		case 3:
			if total == 0 {
				continue
			}
			longest := 0
			for _, l := range lines {
				longest = max(longest, len(l))
			}
			c := w.last().(*numbered)
			of := lines[c.who]
			if len(of) != longest || c.n != of[len(of)-1] {
				t.Fatalf("the last is %d of %s with %d, expected the latest of one with %d", c.n, c.who, len(of), longest)
			}
			lines[c.who] = of[:len(of)-1]
			total--
		}
		if w.count != total {
			t.Fatalf("%d are counted, %d wait", w.count, total)
		}
	}
	if n := len(w.all()); n != total || w.count != 0 || len(w.lines) != 0 || w.turns.Len() != 0 {
		t.Errorf("%d were left, %d are counted after that; expected %d and 0", n, w.count, total)
	}
}
