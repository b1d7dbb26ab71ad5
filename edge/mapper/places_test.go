package mapper

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ends are connections that only end.
type ends struct {
	net.Conn
	closed bool
}

func (e *ends) Close() error { e.closed = true; return nil }

func TestAProcessThatHoldsManyPlacesGivesWay(t *testing.T) {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"reason"})
	p := newPlaces(nil, 6, refused)
	var first, second []*ends
	enter := func(who int, all *[]*ends) *placed {
		c := &ends{}
		in := p.enter(c, who)
		if in != nil {
			*all = append(*all, c)
		}
		return in
	}
	for range 8 {
		enter(1, &first)
	}
	for range 5 {
		enter(2, &second)
	}
	open := func(all []*ends) (text string) {
		for _, c := range all {
			text += map[bool]string{true: "-", false: "+"}[c.closed]
		}
		return text
	}
	// Both have their share, those that it had first; and of what is its share nobody takes anything.
	if got := open(first) + " " + open(second); got != "+++--- +++" {
		t.Errorf("found %s", got)
	}
	var third []*ends
	alone := enter(3, &third)
	if alone == nil || open(third) != "+" || p.open != 6 {
		t.Errorf("a third process is not let in: %s of %d", open(third), p.open)
	}
	if err := alone.Close(); err != nil || p.open != 5 || len(p.by[3]) != 0 {
		t.Errorf("its place is not free again: %d, %v", p.open, err)
	}
	if n := testutil.ToFloat64(refused.WithLabelValues("connections")); n != 8 {
		t.Errorf("%v were counted, expected 2 and 2 that were refused, and 4 that gave way", n)
	}
}

// Where nobody has more than one place, who is there stays.
func TestOneOfManyProcessesIsNotCutForAnother(t *testing.T) {
	p := newPlaces(nil, 3, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refused"}, []string{"reason"}))
	var all []*ends
	for who := range 3 {
		c := &ends{}
		all = append(all, c)
		p.enter(c, who)
	}
	if p.enter(&ends{}, 3) != nil || all[0].closed || all[1].closed || all[2].closed {
		t.Errorf("%+v: one was cut for a newcomer", all)
	}
}

// Whoever holds all places is one process: this one. Its latest stay out, and the edge goes on with those that it has.
func TestIdleConnectionsLockNobodyOut(t *testing.T) {
	e := newEnv(t)
	e.put("modbus", "pump", "1")
	e.listens()
	for range maxConnections {
		c, err := net.Dial("unix", e.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	wait(t, "the places to be free: who is silent is not waited for", func() (any, bool) {
		_, err := e.try("ReportDeviceStates", `{"deviceName": "pump", "state": "ok"}`)
		return err, err == nil
	})
	if n := testutil.ToFloat64(e.server.metrics.refused.WithLabelValues("garbage")); n == 0 {
		t.Error("none of them was counted")
	}
}

// listens waits until the socket is there.
func (e *env) listens() {
	e.t.Helper()
	wait(e.t, "the socket", func() (any, bool) {
		_, err := e.try("ReportDeviceStates", `{"deviceName": "stranger", "state": "ok"}`)
		return err, status.Code(err) == codes.NotFound
	})
}

// speak opens a connection that says something, and returns what comes back until the edge closes it.
func (e *env) speak(say []byte) {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	if _, err := c.Write(say); err != nil {
		e.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		e.t.Errorf("%.40q: expected the connection to be closed: %v", say, err)
	}
}

func TestGarbageAtTheSocketIsCounted(t *testing.T) {
	e := newEnv(t)
	e.listens()
	begin := append([]byte{}, preface...)
	for i, say := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), []byte("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), bytes.Repeat([]byte{0xff}, 1000), append(begin, bytes.Repeat([]byte{0xff}, 100)...),
		append(begin, "\x00\x00\x00\x07\x00\x00\x00\x00\x00"...)} {
		e.speak(say)
		wait(t, fmt.Sprintf("%d to be counted", i+1), func() (any, bool) {
			n := testutil.ToFloat64(e.server.metrics.refused.WithLabelValues("garbage"))
			return n, n == float64(i+1)
		})
	}
	// Who speaks gRPC and says nothing that can be read is told so.
	for path, data := range map[string]string{"/v1beta1.DeviceManagerService/MapperRegister": "\xff\xff\xff", "/v1beta1.DeviceManagerService/\xff": "", "/none/none": ""} {
		e.callRaw(path, data)
	}
	for method, code := range map[string]codes.Code{"MapperRegister": codes.Internal, "unknown": codes.Unimplemented} {
		want := map[string]float64{"MapperRegister": 1, "unknown": 2}[method]
		wait(t, method+" to be counted", func() (any, bool) {
			n := testutil.ToFloat64(e.server.metrics.served.WithLabelValues(method, code.String()))
			return n, n == want
		})
	}
	if _, err := e.try("ReportDeviceStates", `{"deviceName": "stranger", "state": "ok"}`); status.Code(err) != codes.NotFound {
		t.Errorf("found %v", err)
	}
	if n := testutil.ToFloat64(e.server.metrics.served.WithLabelValues("ReportDeviceStates", "NotFound")); n != 2 {
		t.Errorf("two calls are counted %v times", n)
	}
}

// callRaw makes a call of any path with any bytes as its message, and waits for its end.
func (e *env) callRaw(path, data string) {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	defer c.Close()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			e.t.Fatal(err)
		}
	}
	var out bytes.Buffer
	out.Write(preface)
	framer := http2.NewFramer(&out, c)
	message := append([]byte{0, 0, 0, 0, byte(len(data))}, data...)
	for _, err := range []error{framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}), framer.WriteData(1, true, message)} {
		if err != nil {
			e.t.Fatal(err)
		}
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	if _, err := c.Write(out.Bytes()); err != nil {
		e.t.Fatal(err)
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			e.t.Fatalf("%q: %v", path, err)
		}
		if h, ok := f.(*http2.HeadersFrame); ok && h.StreamEnded() {
			return
		}
		if _, ok := f.(*http2.RSTStreamFrame); ok {
			return
		}
	}
}
