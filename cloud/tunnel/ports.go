package tunnel

import (
	"fmt"
	"time"
)

// vacancy is how long a port stays that of a node whose Node is gone, before it is given to another where there is no
// other left: a Node that was deleted by mistake is made again within seconds.
const vacancy = time.Hour

// foreign is how long a port that another process had is given to no node.
const foreign = 10 * time.Minute

// Ports of Services of type NodePort, by default: kube-proxy takes what comes to them, whoever listens.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// book says which port is which node's. It has one owner at a time.
type book struct {
	first, last int
	ports       map[string]int // by node; a node that is gone keeps its, since it may come back
	nodes       map[int]string // by port, the same
	gone        map[string]time.Time
	foreign     map[int]time.Time // by port: when another process had it
}

func newBook(first, last int) *book {
	return &book{first: first, last: last, ports: map[string]int{}, nodes: map[int]string{}, gone: map[string]time.Time{}, foreign: map[int]time.Time{}}
}

// claim enters a port that a Node notes as its own. Whoever has it already keeps it, unless yields says that it is to
// yield to the node: then it has none any more, and is returned. Every CloudCore settles a dispute alike.
func (b *book) claim(node string, number int, yields func(other string) bool) (ok bool, loser string) {
	other := b.nodes[number]
	if other != "" && other != node {
		if !yields(other) {
			return false, ""
		}
		loser = other
		b.drop(other)
	}
	b.drop(node)
	b.ports[node], b.nodes[number] = number, node
	return true, loser
}

// next gives a node the port that it had, the lowest that nobody has, or that of the node which is gone the longest.
func (b *book) next(node string, now time.Time) (int, error) {
	delete(b.gone, node)
	if number := b.ports[node]; number > 0 {
		return number, nil
	}
	for number := b.first; number <= b.last; number++ {
		if b.nodes[number] == "" && (number < firstNodePort || number > lastNodePort) && !b.elsewhere(number, now) {
			b.ports[node], b.nodes[number] = number, node
			return number, nil
		}
	}
	oldest, since := "", now.Add(-vacancy)
	for other, at := range b.gone {
		if at.Before(since) {
			oldest, since = other, at
		}
	}
	if oldest == "" {
		return 0, fmt.Errorf("all ports from %d to %d are given away or in use by other processes", b.first, b.last)
	}
	number := b.ports[oldest]
	b.drop(oldest)
	b.ports[node], b.nodes[number] = number, node
	return number, nil
}

// leave notes that a node's Node is gone.
func (b *book) leave(node string, now time.Time) {
	if b.ports[node] == 0 {
		return
	}
	if _, ok := b.gone[node]; !ok {
		b.gone[node] = now
	}
}

// reject takes a node's port from it, which another process turned out to have.
func (b *book) reject(node string, now time.Time) {
	b.foreign[b.ports[node]] = now
	b.drop(node)
}

// elsewhere reports whether another process had the port a while ago.
func (b *book) elsewhere(number int, now time.Time) bool {
	at, ok := b.foreign[number]
	if ok && now.Sub(at) >= foreign {
		delete(b.foreign, number)
		return false
	}
	return ok
}

// drop takes a node's port from it.
func (b *book) drop(node string) {
	if number := b.ports[node]; number > 0 {
		delete(b.nodes, number)
	}
	delete(b.ports, node)
	delete(b.gone, node)
}
