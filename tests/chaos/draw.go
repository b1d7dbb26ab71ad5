package chaos

import (
	"math/rand/v2"
	"time"
)

// Class says what a fault hits. Two faults of one class never overlap.
type Class string

// The classes.
const (
	Link   Class = "link"
	Cloud  Class = "cloud"
	Edge   Class = "edge"
	Object Class = "object"
)

// Fault is one way in which things go wrong.
type Fault struct {
	Name  string
	Class Class
	// What happens, and what is promised: the words of docs/reliability.md.
	What, Promise string
	// Least and Most bound how long it lasts.
	Least, Most time.Duration
	// Restarts: containers end by it, so that they are started anew. Replaces: the StatefulSet's pod may give way to another one. Rewinds: the
	// cluster itself goes back to an older state.
	Restarts, Replaces, Rewinds bool
	// Forgets is how many events may be lost by it at most: those that the kubelet had not handed over yet when its process ended, or those
	// that a full disk does not take.
	Forgets int
	// Twice: a pod may run on each of two machines, and each says so once.
	Twice bool
	// Alone: it is not combined with others. Clock: it needs an edgecore whose clock can be set.
	Alone, Clock bool
	// Former: it needs programs of an older version, which take minutes to build: short runs leave it out.
	Former bool
	begin  func(*fault) (end func() error, err error)
}

const (
	// handful is what a kubelet has in its hands when it ends.
	handful = 3
	// aDiskful is what a disk that is full for half a minute does not take, of the events that are counted.
	aDiskful = 10
)

// groupSize is the number of seeds over which every fault comes at least twice.
const groupSize = 5

// Planned is one fault of a slot: it begins After the slot and lasts Length.
type Planned struct {
	Fault         string
	After, Length time.Duration
}

// Draw returns what a seed does: slots one after the other, each with one fault or two that overlap. Seeds 1 to 5, 6 to 10
// and so on deal two decks of all faults among themselves. With slots > 0 only so many are drawn, from one deck of the
// seed's own: a short run.
func Draw(seed uint64, table []Fault, slots int) [][]Planned {
	var hand []Fault
	own := rand.New(rand.NewPCG(seed, 1))
	if slots > 0 {
		hand = append(hand, table...)
		own.Shuffle(len(hand), func(i, j int) { hand[i], hand[j] = hand[j], hand[i] })
	} else {
		deck := append(append([]Fault{}, table...), table...)
		group := (seed - 1) / groupSize
		rand.New(rand.NewPCG(group, 2)).Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for i := int((seed - 1) % groupSize); i < len(deck); i += groupSize {
			hand = append(hand, deck[i])
		}
	}
	var plan [][]Planned
	for i := 0; i < len(hand) && (slots == 0 || len(plan) < slots); i++ {
		first := Planned{Fault: hand[i].Name, Length: between(own, hand[i].Least, hand[i].Most)}
		slot := []Planned{first}
		if i+1 < len(hand) && combine(hand[i], hand[i+1]) && own.IntN(2) == 0 {
			second := Planned{Fault: hand[i+1].Name, Length: between(own, hand[i+1].Least, hand[i+1].Most)}
			second.After = between(own, 0, first.Length/2)
			slot = append(slot, second)
			i++
		}
		plan = append(plan, slot)
	}
	return plan
}

func combine(a, b Fault) bool { return a.Class != b.Class && !a.Alone && !b.Alone }

// between draws a time of whole milliseconds.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)/int64(time.Millisecond)+1))*time.Millisecond
}
