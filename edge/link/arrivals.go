package link

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errInPeace ends an attempt whose connection is taken while another one's waits for its turn.
var errInPeace = errors.New("another connection to this server waits for its turn")

// arrivals are the attempts over TCP, of which servers took some and have not spoken on them yet. Those that a dead network held up would
// arrive one after the other once it is back: of them the server sees one, and what it would have to do for the others is done for other edges.
// The methods are safe for concurrent use.
type arrivals struct {
	mu sync.Mutex // guards at, and what is in it
	at map[string]*server
}

// server is what is known of one.
type server struct {
	// dialling are the attempts that it has not taken, waiting is how many it took, the last at latest.
	dialling map[*arrival]bool
	waiting  int
	latest   time.Time
	// crowded is how many it has closed again while others waited.
	crowded int
}

// arrival is one attempt.
type arrival struct {
	server  *server
	giveUp  context.CancelCauseFunc
	reached bool
}

func newArrivals() *arrivals { return &arrivals{at: map[string]*server{}} }

// of returns what is known of a server. Called with mu held.
func (a *arrivals) of(name string) *server {
	if a.at[name] == nil {
		a.at[name] = &server{dialling: map[*arrival]bool{}}
	}
	return a.at[name]
}

// left is how long the server is to be left in peace from then on: the time that it is given doubles with each connection that waits, and
// with each that it closed again while others did, since it has more than it can keep then. 0 if none waits.
func (s *server) left(since time.Time, peace time.Duration) time.Duration {
	if s.waiting == 0 {
		return 0
	}
	return max(0, time.Until(since.Add(min(peace<<min(s.waiting-1+s.crowded, 8), mostPeace))))
}

// left is how long a server that was dialled last at that time is to be left in peace, 0 if it may be dialled.
func (a *arrivals) left(name string, dialled time.Time, peace time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of(name).left(dialled, peace)
}

// begin notes an attempt, which giveUp ends. over has to be called of it.
func (a *arrivals) begin(name string, giveUp context.CancelCauseFunc) *arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := &arrival{server: a.of(name), giveUp: giveUp}
	x.server.dialling[x] = true
	return x
}

// arrive notes that the server took the connection of an attempt, and gives up the others at it; errInPeace if it is to be left in peace.
func (a *arrivals) arrive(x *arrival, peace time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := x.server
	switch {
	case x.reached: // a proxy over TLS has a moment of its own
		return nil
	case s.left(s.latest, peace) > 0:
		return errInPeace
	}
	x.reached = true
	s.waiting++
	s.latest = time.Now()
	delete(s.dialling, x)
	for other := range s.dialling {
		other.giveUp(errInPeace)
	}
	return nil
}

// reached reports whether the server took the attempt's connection.
func (a *arrivals) reached(x *arrival) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return x.reached
}

// over ends what begin began; closed tells that the server closed it.
func (a *arrivals) over(x *arrival, closed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(x.server.dialling, x)
	if !x.reached {
		return
	}
	if x.server.waiting--; closed && x.server.waiting > 0 {
		x.server.crowded++
	}
}
