package methods

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/twin"
)

// dial opens a connection that ends with the test.
func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// A client that needs no password holds no place either before all of its request is there.
func TestWhoAsksByHalvesGivesWay(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections, c.Patience = 3, time.Hour })
	for range 2 * w.cfg.MaxConnections {
		conn := w.dial()
		// The server says that it is ready for the body once it reads it.
		if _, err := io.WriteString(conn, "POST /v1/devices/plant/b1/methods/set HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if said, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(said, "100 Continue") {
			t.Fatalf("found %q, %v", said, err)
		}
	}
	w.get("/v1/devices", "")
	c := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	w.report("b1", "setpoint", "1", "1")
	w.gets(c, http.StatusOK, "")
}

// Nor one that does not read what it asked for.
func TestWhoDoesNotReadGivesWay(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections, c.Patience = 2, time.Hour })
	w.edit(func() {
		d := w.devices["plant/b1"]
		d.Properties["label"] = &twin.Property{Own: true, Reported: &twin.Value{Value: strings.Repeat("x", 32<<20)}} // more than the kernel holds
		w.devices["plant/b1"] = d
	})
	var stuck []*bufio.Reader
	for range w.cfg.MaxConnections {
		conn := w.dial()
		if _, err := io.WriteString(conn, "GET /v1/devices/plant/b1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if _, err := r.Peek(1); err != nil { // the answer has begun
			t.Fatal(err)
		}
		stuck = append(stuck, r)
	}
	w.edit(func() { delete(w.devices, "plant/b1") })
	w.get("/v1/devices", "")
	if n, err := io.Copy(io.Discard, stuck[0]); err == nil && n > 32<<20 {
		t.Error("the oldest that did not read kept its place")
	}
}

// postingAs is posting by a user, of the method set.
func (w *world) postingAs(user, device, body string) <-chan reply {
	c := make(chan reply, 1)
	go func() {
		c <- w.do(w.t.Context(), http.MethodPost, "/v1/devices/plant/"+device+"/methods/set", body, "user", user+":"+user)
	}()
	return c
}

func TestOneUsersCallsLeavePlacesToOthers(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections = 4 })
	w.users.desire["ann plant/b1"], w.users.desire["bob plant/b2"] = true, true
	first := w.postingAs("ann", "b1", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	second := w.postingAs("ann", "b1", `{"setpoint": 2}`)
	eventually(t, "two calls", func() error {
		if n := w.metric("calls"); n != 2 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	if r := <-w.postingAs("ann", "b1", `{"setpoint": 3}`); r.Code != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || !strings.Contains(strings.Join(r.Reasons, ""), "of one user") {
		t.Errorf("ann's third call: %+v", r)
	}
	others := w.postingAs("bob", "b2", `{"setpoint": 4}`)
	w.desires("b1 setpoint=1", "b2 setpoint=4")
	w.report("b2", "setpoint", "4", "4")
	w.gets(others, http.StatusOK, "")
	w.report("b1", "setpoint", "1", "1")
	w.gets(first, http.StatusOK, "")
	w.desires("b1 setpoint=1", "b2 setpoint=4", "b1 setpoint=2")
	w.report("b1", "setpoint", "2", "2")
	w.gets(second, http.StatusOK, "")
	// Its places are free again.
	third := w.postingAs("ann", "b1", `{"setpoint": 3}`)
	w.desires("b1 setpoint=1", "b2 setpoint=4", "b1 setpoint=2", "b1 setpoint=3")
	w.report("b1", "setpoint", "3", "3")
	w.gets(third, http.StatusOK, "")
}

// What the mapper refuses was not written, and the answer does not say so.
func TestALateAnswerSaysOfEachPropertyWhatBecameOfIt(t *testing.T) {
	w := newWorld(t)
	w.late("b1", "heat", "k", both)
	w.report("b1", "fan", "true", "true")
	w.edit(func() {
		d := w.devices["plant/b1"]
		d.Refused = map[string]string{"setpoint": "expected at most 40", "fan": "of another time"}
		w.devices["plant/b1"] = d
	})
	r := w.late("b1", "heat", "k", both)
	w.is(r, http.StatusGatewayTimeout, `property "setpoint": the mapper refuses "50": expected at most 40`)
	if p := r.Properties["setpoint"]; p.Result != wasRefused || p.Reason != "expected at most 40" || p.Desired != "50" {
		t.Errorf("setpoint: %+v", p)
	}
	if p := r.Properties["fan"]; p.Result != wasDone || p.Reason != "" {
		t.Errorf("fan: %+v", p)
	}
	late := w.posting("b1", "set", "", "", `{"setpoint": 60}`)
	w.desires("b1 fan=true", "b1 setpoint=50", "b1 setpoint=60")
	w.cloud("b1", "setpoint", "70")
	r = w.gets(late, http.StatusConflict, "")
	w.is(r, http.StatusConflict, `"70" is desired now`)
	if p := r.Properties["setpoint"]; p.Result != wasReplaced || !strings.Contains(p.Reason, `"70" is desired now`) {
		t.Errorf("setpoint: %+v", p)
	}
}
