package transport

import (
	"container/list"
	"net"
)

// waiting are connections that wait for a place, in a line for each address. Each of its methods takes the same time however many there are.
type waiting struct {
	lines map[string]*line
	turns list.List // of *line: those that have some waiting; the first is next
	// long has the lines by their length, and longest is the greatest that there is.
	long    map[int]map[*line]bool
	longest int
	count   int
}

// A line is what waits of one address, the oldest first.
type line struct {
	who   string
	conns []net.Conn
	turn  *list.Element
}

func newWaiting() *waiting {
	return &waiting{lines: map[string]*line{}, long: map[int]map[*line]bool{}}
}

func (w *waiting) add(who string, c net.Conn) {
	l := w.lines[who]
	if l == nil {
		l = &line{who: who}
		l.turn = w.turns.PushBack(l)
		w.lines[who] = l
	}
	w.resize(l, append(l.conns, c))
}

// first takes the oldest of a line.
func (w *waiting) first(l *line) net.Conn {
	c := l.conns[0]
	l.conns[0] = nil
	w.resize(l, l.conns[1:])
	return c
}

// last takes the latest of the address that has the most.
func (w *waiting) last() net.Conn {
	for l := range w.long[w.longest] {
		n := len(l.conns) - 1
		c := l.conns[n]
		l.conns[n] = nil
		w.resize(l, l.conns[:n])
		return c
	}
	return nil
}

// resize gives a line what it has now.
func (w *waiting) resize(l *line, conns []net.Conn) {
	was, is := len(l.conns), len(conns)
	delete(w.long[was], l)
	if len(w.long[was]) == 0 {
		delete(w.long, was)
	}
	w.count += is - was
	l.conns = conns
	if is == 0 {
		w.turns.Remove(l.turn)
		delete(w.lines, l.who)
	} else {
		if w.long[is] == nil {
			w.long[is] = map[*line]bool{}
		}
		w.long[is][l] = true
	}
	w.longest = max(w.longest, is)
	for w.longest > 0 && w.long[w.longest] == nil {
		w.longest-- // by one: that is how lengths change
	}
}

// all takes all.
func (w *waiting) all() (conns []net.Conn) {
	for _, l := range w.lines {
		conns = append(conns, l.conns...)
	}
	*w = *newWaiting()
	return conns
}
