package tunnel

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// TestAPortOfANodeThatIsGoneIsGivenAwayLast: while there is another, and for an hour, it waits for the node to come back.
func TestAPortOfANodeThatIsGoneIsGivenAwayLast(t *testing.T) {
	now := time.Now()
	b := newBook(20, 22)
	want := func(node string, port int) {
		t.Helper()
		if got, err := b.next(node, now); err != nil || got != port {
			t.Errorf("%s gets %d, %v: expected %d", node, got, err, port)
		}
	}
	none := func(node string) {
		t.Helper()
		if got, err := b.next(node, now); err == nil {
			t.Errorf("%s gets %d: expected none", node, got)
		}
	}
	want("a", 20)
	want("b", 21)
	b.leave("a", now)
	want("c", 22) // there is another
	none("d")
	now = now.Add(vacancy)
	want("a", 20) // it came back in time
	now = now.Add(time.Second)
	none("d")
	b.leave("a", now)
	now = now.Add(time.Minute)
	b.leave("b", now)
	b.leave("b", now.Add(time.Hour)) // said again: it is gone since then all the same
	now = now.Add(vacancy - time.Second)
	want("d", 20) // a is gone for longer than an hour, b not
	none("e")
	now = now.Add(2 * time.Second)
	want("e", 21)
	none("a")
	none("b")
}

func TestOfTwoThatClaimOnePortOneKeepsIt(t *testing.T) {
	b := newBook(20, 29)
	yes, no := func(string) bool { return true }, func(string) bool { return false }
	if ok, loser := b.claim("a", 25, no); !ok || loser != "" {
		t.Errorf("a free port: %v, %q", ok, loser)
	}
	if ok, loser := b.claim("b", 25, no); ok || loser != "" {
		t.Errorf("a port that is another's: %v, %q", ok, loser)
	}
	if ok, loser := b.claim("b", 25, yes); !ok || loser != "a" {
		t.Errorf("a port that another yields: %v, %q", ok, loser)
	}
	for _, c := range []struct {
		node string
		port int
	}{{"a", 20}, {"b", 25}, {"c", 21}} {
		if got, err := b.next(c.node, time.Now()); err != nil || got != c.port {
			t.Errorf("%s has %d, %v: expected %d", c.node, got, err, c.port)
		}
	}
}

// TestAPortOfAnotherProcessIsNotGiven: a node without one gets the next that is free, and none where all are in use.
func TestAPortOfAnotherProcessIsNotGiven(t *testing.T) {
	const first = firstPort + 420
	for _, number := range []int{first, first + 1} {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", number))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	n := newNodes()
	n.edge("a", "")
	w := newWorld(t, n, first, first+2)
	if port := w.ready("a"); port != first+2 || n.port("a") != strconv.Itoa(first+2) {
		t.Fatalf("a has port %d, noted as %s; expected %d, which no other process has", port, n.port("a"), first+2)
	}
	if code, body := w.ask("a", "/pods", "get/proxy"); code != 200 {
		t.Errorf("status %d: %s", code, body)
	}
	n.edge("b", "")
	eventually(t, "b to be refused a port", func() bool { return testutil.ToFloat64(w.server.m.failures) > 0 })
	if port := n.port("b"); port != "" {
		t.Errorf("b is noted to have port %s: expected none, since all are in use", port)
	}
}

// TestAnotherCloudCoreMayNoteThePortFirst: who came to the listener meanwhile is not turned away.
func TestAnotherCloudCoreMayNoteThePortFirst(t *testing.T) {
	const first = firstPort + 424
	w := newWorld(t, newNodes(), first, first+1)
	a := edgeNode("a", "") // not among the cluster's, for the server's own workers not to settle it meanwhile
	listener := func(noted int) net.Listener {
		t.Helper()
		if number, err := w.server.choose(a, noted); err != nil || number != first {
			t.Fatalf("its port is %d, %v; expected %d", number, err, first)
		}
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.nodes["a"].listener
	}
	if before := listener(0); before == nil || listener(first) != before {
		t.Error("the listener was closed, or was never there")
	}
}

// TestAForeignPortIsTriedAgainLater: nobody says when the other process lets it go.
func TestAForeignPortIsTriedAgainLater(t *testing.T) {
	now := time.Now()
	b := newBook(20, 21)
	want := func(node string, port int) {
		t.Helper()
		if got, err := b.next(node, now); err != nil || got != port {
			t.Errorf("%s gets %d, %v: expected %d", node, got, err, port)
		}
	}
	want("a", 20)
	b.reject("a", now)
	now = now.Add(foreign - time.Second)
	want("a", 21)
	if got, err := b.next("b", now); err == nil {
		t.Errorf("b gets %d, which another process had", got)
	}
	now = now.Add(time.Second)
	want("b", 20)
}

// TestTwoCloudCoresThatGiveOnePortTwice: each gave the first port to a node that the other had not heard of. When both know
// both, the older Node has it, for both CloudCores, and the other's Node shows its new one.
func TestTwoCloudCoresThatGiveOnePortTwice(t *testing.T) {
	n := newNodes()
	const first = firstPort + 80
	one, two := newWorldAt(t, n, "127.0.0.1", first, first+9), newWorldAt(t, n, "127.0.0.2", first, first+9)
	one.see("b")
	two.see("a")
	n.edge("a", "")
	n.edge("b", "")
	eventually(t, "both nodes to have the same port", func() bool { return n.port("a") == strconv.Itoa(first) && n.port("b") == n.port("a") })
	n.shown("b", "192.0.2.1", first)
	one.see("")
	two.see("")
	for _, name := range []string{"a", "b"} { // something else changes in them
		o, _ := n.Object(object.Key{Kind: object.Nodes, Name: name})
		n.set(name, o.(*corev1.Node))
	}
	eventually(t, "the younger one to get another port", func() bool { return n.port("b") == strconv.Itoa(first+1) })
	eventually(t, "its Node to show that", func() bool {
		o, _ := n.Object(object.Key{Kind: object.Nodes, Name: "b"})
		return o.(*corev1.Node).Status.DaemonEndpoints.KubeletEndpoint.Port == first+1
	})
	if n.port("a") != strconv.Itoa(first) {
		t.Errorf("the older Node's port is %s, expected %d", n.port("a"), first)
	}
	for i, w := range []*world{one, two} {
		for node, port := range map[string]int{"a": first, "b": first + 1} {
			eventually(t, fmt.Sprintf("CloudCore %d to listen for %s", i, node), func() bool {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.%d:%d", i+1, port))
				if err == nil {
					_ = c.Close()
				}
				got, err2 := w.server.Port(t.Context(), node)
				return err == nil && err2 == nil && got == port
			})
		}
	}
}

// TestAPortThatWasLostWhileItWasNotedIsNotGiven: the older Node was heard of in between.
func TestAPortThatWasLostWhileItWasNotedIsNotGiven(t *testing.T) {
	s := newWorld(t, newNodes(), firstPort+90, firstPort+91).server
	s.mu.Lock()
	number, err := s.book.next("b", time.Now())
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.book.claim("a", number, func(string) bool { return true })
	s.mu.Unlock()
	if err := s.give("b", number); !errors.Is(err, errChanged) {
		t.Errorf("a port that is another's: %v, expected %v", err, errChanged)
	}
	if err := s.give("a", number); err != nil {
		t.Error(err)
	}
}

// TestWhatOneCloudCoreHasNotNotedDoesNotCount: it meant to give an older node a port that another CloudCore gave and noted.
func TestWhatOneCloudCoreHasNotNotedDoesNotCount(t *testing.T) {
	n := newNodes()
	const first = firstPort + 92
	w := newWorld(t, n, first, first+3)
	w.see("a")
	n.edge("a", "")
	w.server.mu.Lock()
	w.server.book.claim("a", first, func(string) bool { return true })
	w.server.mu.Unlock()
	n.edge("b", strconv.Itoa(first))
	if port := w.ready("b"); port != first || n.port("b") != strconv.Itoa(first) {
		t.Errorf("b has port %d and is noted to have %s, expected %d, which its Node notes", port, n.port("b"), first)
	}
}

// TestWhoChangesTheNoteMovesTheNode: to a port that nobody has.
func TestWhoChangesTheNoteMovesTheNode(t *testing.T) {
	n := newNodes()
	const first = firstPort + 400
	w := newWorld(t, n, first, first+3)
	n.edge("a", "")
	if port := w.ready("a"); port != first {
		t.Fatalf("its port is %d, expected %d", port, first)
	}
	n.edge("a", strconv.Itoa(first+2))
	eventually(t, "the new port to be open and the old one not", func() bool { return open(first+2) && !open(first) })
	if port := w.ready("a"); port != first+2 || n.port("a") != strconv.Itoa(first+2) {
		t.Errorf("its port is %d, noted as %s, expected %d", port, n.port("a"), first+2)
	}
}

// TestANoteIsMadeOnWhatWasLookedAt: not on a Node that another CloudCore has noted a port on since.
func TestANoteIsMadeOnWhatWasLookedAt(t *testing.T) {
	n := newNodes()
	const first = firstPort + 96
	w := newWorld(t, n, first, first+3)
	w.see("a")
	n.edge("a", "")
	o, _ := n.Object(object.Key{Kind: object.Nodes, Name: "a"})
	n.edge("a", strconv.Itoa(first+3))
	if err := w.server.note(t.Context(), o.(*corev1.Node), first); !errors.Is(err, errChanged) || n.port("a") != strconv.Itoa(first+3) {
		t.Errorf("%v, and its port is noted as %s", err, n.port("a"))
	}
	w.see("")
	if err := w.server.sync(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if port := w.ready("a"); port != first+3 {
		t.Errorf("its port is %d, expected %d", port, first+3)
	}
}

// TestTwoCloudCoresAgreeOnThePortsOfManyNodes: all join at once, and both CloudCores come to give each the same port, and no
// two one.
func TestTwoCloudCoresAgreeOnThePortsOfManyNodes(t *testing.T) {
	n := newNodes()
	const first, count = firstPort + 100, 60
	worlds := []*world{newWorldAt(t, n, "127.0.0.1", first, first+4*count), newWorldAt(t, n, "127.0.0.2", first, first+4*count)}
	for i := range count {
		n.edge(fmt.Sprint("node-", i), "")
	}
	agreed := func() bool {
		seen := map[string]bool{}
		for i := range count {
			name := fmt.Sprint("node-", i)
			noted := n.port(name)
			if noted == "" || seen[noted] {
				return false
			}
			seen[noted] = true
			for _, w := range worlds {
				w.server.mu.Lock()
				p := w.server.nodes[name]
				same := p != nil && p.listener != nil && strconv.Itoa(p.number) == noted
				w.server.mu.Unlock()
				if !same {
					return false
				}
			}
		}
		return true
	}
	eventually(t, "both to give every node the port that its Node notes", agreed)
}
