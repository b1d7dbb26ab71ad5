package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// lead has it believe that the CloudCore of that host holds the nodes.
func (w *world) lead(to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.other = to
}

// A Node shows one address, whichever CloudCore holds it: another one that is asked passes the connection on, as it is.
func TestAnotherCloudCorePassesItsCallersOn(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	holds := newWorldAt(t, n, "127.0.0.2", firstPort+70, firstPort+71)
	asked := newWorld(t, n, firstPort+70, firstPort+71)
	asked.lead("127.0.0.2")
	listens(t, "127.0.0.2", asked.ready("a"))
	for path, code := range map[string]int{"/pods": 200, "/metrics": 403} {
		before := len(holds.requests())
		if got, body := asked.ask("a", path, "get/proxy"); got != code {
			t.Errorf("passed on: status %d, expected %d: %s", got, code, body)
		}
		if heard := len(holds.requests()) > before; heard != (code == 200) {
			t.Errorf("passed on: the holder's edge heard of it: %v", heard)
		}
	}
	if len(asked.requests()) != 0 {
		t.Error("the one that does not hold the node opened a stream to it")
	}
	raw := strings.Repeat("any bytes", 10000)
	c, r := asked.upgrade("a")
	go func() { _, _ = io.WriteString(c, raw) }()
	got := make([]byte, len(raw))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != raw {
		t.Fatalf("through both %d bytes came back, %v", len(got), err)
	}
	// Each believes that the other has it, as for a moment after a change: nobody sends it in a circle.
	holds.lead("127.0.0.1")
	for _, w := range []*world{holds, asked} {
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
	}
	if code, body := asked.ask("a", "/pods", "get/proxy"); code != http.StatusBadGateway {
		t.Errorf("status %d: %s", code, body)
	}
	// The holder is gone: the caller is told here.
	asked.lead("127.0.0.3")
	if code, body := asked.ask("a", "/pods", "get/proxy"); code != http.StatusBadGateway || !strings.Contains(body, "went away") {
		t.Errorf("status %d: %s", code, body)
	}
}

// Two that take each other for the holder, and see each other come from an address that neither shows: a connection goes round once.
func TestAConnectionGoesInNoCircle(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	asked := newWorld(t, n, firstPort+70, firstPort+71)
	second := newWorldAt(t, n, "127.0.0.2", firstPort+70, firstPort+71)
	third := newWorldAt(t, n, "127.0.0.4", firstPort+70, firstPort+71)
	asked.lead("127.0.0.2")
	second.lead("127.0.0.4")
	third.lead("127.0.0.2")
	for _, w := range []*world{asked, second, third} {
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
	}
	port := asked.ready("a")
	listens(t, "127.0.0.2", port)
	listens(t, "127.0.0.4", port)
	for range 2 { // the first leaves nothing behind
		before := passedOn(asked, second, third)
		if code, body := asked.ask("a", "/pods", "get/proxy"); code != http.StatusBadGateway {
			t.Errorf("status %d: %s", code, body)
		}
		if got := passedOn(asked, second, third) - before; got != 3 {
			t.Errorf("it was passed on %v times, expected 3", got)
		}
	}
}

// passedOn is how many connections they have passed on.
func passedOn(all ...*world) float64 {
	n := 0.0
	for _, w := range all {
		n += testutil.ToFloat64(w.server.m.requests.WithLabelValues("passed"))
	}
	return n
}

// TestACallerFollowsTheNode: an API server keeps its connections, and one of before, which was passed on, still ends at the CloudCore
// that held the node then. That one ends it, so that the next goes to the one that holds the node now.
func TestACallerFollowsTheNode(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	held := newWorldAt(t, n, "127.0.0.2", firstPort+70, firstPort+71)
	holds := newWorld(t, n, firstPort+70, firstPort+71)
	holds.lead("127.0.0.2")
	listens(t, "127.0.0.2", holds.ready("a"))
	way := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer way.CloseIdleConnections()
	ask := func() int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/pods", holds.ready("a")), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer get/proxy")
		resp, err := way.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := ask(); got != http.StatusOK {
		t.Fatalf("passed on: status %d", got)
	}
	// The node changes its CloudCore, and its streams end with the session.
	held.lead("127.0.0.1")
	holds.lead("")
	held.mu.Lock()
	held.away = true
	held.mu.Unlock()
	held.kubelet.CloseClientConnections()
	if got := ask(); got != http.StatusBadGateway {
		t.Fatalf("by the connection of before: status %d, expected %d", got, http.StatusBadGateway)
	}
	if got := ask(); got != http.StatusOK {
		t.Errorf("after it: status %d, expected a connection to the holder", got)
	}
}

// listens waits until a CloudCore at another address listens on a node's port.
func listens(t *testing.T, host string, port int) {
	t.Helper()
	eventually(t, "the other CloudCore to listen", func() bool {
		c, err := net.Dial("tcp", fmt.Sprint(host, ":", port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// hello is what a caller over TLS says first.
func hello(t *testing.T) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		defer a.Close()
		_ = tls.Client(a, &tls.Config{InsecureSkipVerify: true}).Handshake() // nobody answers
	}()
	p := make([]byte, 4<<10)
	n, err := b.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n]
}

// TestStrangersThatArePassedOnHoldUpNobody: connections that say nothing, the half of a handshake, or nothing after it,
// hold up no other address at the CloudCore that passes them on, and none at the holder, which sees one address only.
func TestStrangersThatArePassedOnHoldUpNobody(t *testing.T) {
	first := hello(t)
	for i, c := range []struct {
		name  string
		speak func(net.Conn, *atomic.Int64)
	}{
		{"silent", func(_ net.Conn, said *atomic.Int64) { said.Add(1) }},
		{"half of a handshake", func(c net.Conn, said *atomic.Int64) {
			if _, err := c.Write(first); err == nil {
				said.Add(1)
			}
		}},
		{"silent after the handshake", func(c net.Conn, said *atomic.Int64) {
			go func() {
				// It takes a session ticket where there is one.
				if tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "a", ClientSessionCache: tls.NewLRUClientSessionCache(1)}).Handshake() == nil {
					said.Add(1)
				}
			}()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNodes()
			n.edge("a", "")
			port := firstPort + 430 + 2*i
			newWorldAt(t, n, "127.0.0.2", port, port+1)
			asked := newWorld(t, n, port, port+1)
			asked.lead("127.0.0.2")
			listens(t, "127.0.0.2", asked.ready("a"))
			address := fmt.Sprint("127.0.0.1:", asked.ready("a"))
			var said atomic.Int64
			for range 2 * maxHandshakes {
				stranger, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer stranger.Close()
				c.speak(stranger, &said)
			}
			share := int64(maxPassing - maxPassing/4)
			eventually(t, "strangers to have all the places that they get", func() bool { return said.Load() >= share })
			begun := time.Now()
			if code, body := asked.ask("a", "/pods", "get/proxy"); code != 200 {
				t.Errorf("beside strangers: status %d: %s", code, body)
			}
			if took := time.Since(begun); took > handshakeTimeout/2 {
				t.Errorf("beside strangers an answer took %s", took)
			}
			if c.name == "silent after the handshake" && said.Load() > share {
				t.Errorf("%d strangers were passed on at once, expected %d at most", said.Load(), share)
			}
		})
	}
}

// TestSilenceIsNotPassedOn: the holder hears of a caller when there is something to hear.
func TestSilenceIsNotPassedOn(t *testing.T) {
	n := newNodes()
	const first = firstPort + 440
	n.edge("a", "")
	asked := newWorld(t, n, first, first+1)
	holder, err := net.Listen("tcp", fmt.Sprint("127.0.0.2:", first))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	asked.lead("127.0.0.2")
	address := fmt.Sprint("127.0.0.1:", asked.ready("a"))
	var last net.Conn
	for range 20 {
		if last, err = net.Dial("tcp", address); err != nil {
			t.Fatal(err)
		}
		defer last.Close()
	}
	if _, err := io.WriteString(last, "hello"); err != nil {
		t.Fatal(err)
	}
	c, err := holder.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout / 2))
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("the first that came to the holder said %q, %v; expected the one who spoke", got, err)
	}
}

// TestWhatIsPassedOnAndAnsweredIsNoHandshake: however many of one address there are, and however long they last.
func TestWhatIsPassedOnAndAnsweredIsNoHandshake(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	newWorldAt(t, n, "127.0.0.2", firstPort+450, firstPort+451)
	asked := newWorld(t, n, firstPort+450, firstPort+451)
	asked.lead("127.0.0.2")
	listens(t, "127.0.0.2", asked.ready("a"))
	begun := time.Now()
	for range maxPassing + 1 {
		asked.upgrade("a")
	}
	if code, body := asked.ask("a", "/pods", "get/proxy"); code != 200 {
		t.Errorf("beside %d that are passed on: status %d: %s", maxPassing+1, code, body)
	}
	if took := time.Since(begun); took > handshakeTimeout {
		t.Errorf("%d that are passed on, and one beside them, took %s", maxPassing+1, took)
	}
}

// TestOneAddressLeavesOthersToBePassedOn: one that has all the connections that it may have passed on.
func TestOneAddressLeavesOthersToBePassedOn(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	holds := newWorldAt(t, n, "127.0.0.2", firstPort+460, firstPort+461)
	asked := newWorld(t, n, firstPort+460, firstPort+461)
	asked.lead("127.0.0.2")
	listens(t, "127.0.0.2", asked.ready("a"))
	count := 0
	for asked.server.passed.Take("192.0.2.9") {
		count++
	}
	if count != maxPassed-maxPassed/4 {
		t.Errorf("one address has %d places, expected %d", count, maxPassed-maxPassed/4)
	}
	if code, body := asked.ask("a", "/pods", "get/proxy"); code != 200 || len(holds.requests()) != 1 {
		t.Errorf("status %d, the holder was asked %d times: %s", code, len(holds.requests()), body)
	}
}

// TestAnAnswerIsToldFromAHandshake: by the records alone, however the bytes come.
func TestAnAnswerIsToldFromAHandshake(t *testing.T) {
	record := func(kind byte, length int) []byte {
		return append([]byte{kind, 3, 3, byte(length >> 8), byte(length)}, bytes.Repeat([]byte{applicationData}, length)...)
	}
	const handshake = 22
	for _, piece := range []int{1, 3, 7, 1 << 20} {
		var a answered
		says := func(who string, see func([]byte) bool, want bool, records ...[]byte) {
			t.Helper()
			all, got := bytes.Join(records, nil), false
			for len(all) > 0 {
				n := min(piece, len(all))
				got = see(all[:n]) || got
				all = all[n:]
			}
			if got != want {
				t.Errorf("%s, in pieces of %d: %v, expected %v", who, piece, got, want)
			}
		}
		says("the caller's hello", a.caller, false, record(handshake, 500))
		says("the holder's handshake", a.holder, false, record(handshake, 90), record(20, 1), record(applicationData, 900))
		says("the end of the caller's", a.caller, true, record(20, 1), record(applicationData, 53))
		says("short messages of TLS", a.holder, false, record(applicationData, 22), record(applicationData, 22), record(applicationData, 42))
		says("an answer", a.holder, true, record(applicationData, 150))
	}
}

// TestWhoAsksAndWaitsIsLeftInPeace: the log of a container that says nothing has no answer for hours. A stranger ends.
func TestWhoAsksAndWaitsIsLeftInPeace(t *testing.T) {
	for _, asked := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var a answered
			var stays, ends atomic.Bool
			a.expire(func() { stays.Store(true) }, func() { ends.Store(true) })
			a.asked.Store(asked)
			time.Sleep(2 * handshakeTimeout) // of the bubble; for so long the holder has to do with a stranger
			synctest.Wait()
			if stays.Load() || ends.Load() {
				t.Errorf("asked %v: it was decided too early", asked)
			}
			time.Sleep(strangerLife)
			synctest.Wait()
			if stays.Load() != asked || ends.Load() == asked {
				t.Errorf("asked %v: stays %v, ends %v", asked, stays.Load(), ends.Load())
			}
		})
	}
}

// TestWhatIsPassedOnEndsWithTheCloudCoreThatPassesItOn: one that stops leaves nothing behind, whatever the holder does.
func TestWhatIsPassedOnEndsWithTheCloudCoreThatPassesItOn(t *testing.T) {
	n := newNodes()
	n.edge("a", "")
	newWorldAt(t, n, "127.0.0.2", firstPort+90, firstPort+91)
	asked := newWorld(t, n, firstPort+90, firstPort+91)
	asked.lead("127.0.0.2")
	listens(t, "127.0.0.2", asked.ready("a"))
	c, r := asked.upgrade("a")
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if b, err := r.ReadByte(); err != nil || b != 'x' {
		t.Fatalf("through both %q came back, %v", b, err)
	}
	asked.stop()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := r.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection goes on after the CloudCore that passed it on has stopped: %v", err)
	}
}
