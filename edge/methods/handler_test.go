package methods

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/twin"
)

func TestWhatIsWrongWithARequestIsSaid(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MinTimeout = 5 * time.Second })
	w.edit(func() {
		d := w.devices["plant/b2"]
		d.Model = nil
		w.devices["plant/b2"] = d
	})
	const base = "/v1/devices/plant/b1/methods/"
	many := `{"setpoint": 1, "fan": true` + strings.Repeat(" ", 8)
	for i := range 30 {
		many += fmt.Sprintf(`, "p%02d": 1`, i)
	}
	twice := []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}
	for _, c := range []struct {
		verb, path, body string
		headers          []string
		code             int
		reason           string
	}{
		{"POST", "/v1/devices/plant/none/methods/heat", both, nil, 404, `no device "none" in namespace "plant"`},
		{"POST", "/v1/devices/other/b1/methods/heat", both, nil, 404, `no device "b1" in namespace "other"`},
		{"GET", "/v1/devices/plant/none", "", nil, 404, "no device"},
		{"POST", base + "cool", both, nil, 404, `plant/b1 has no method "cool"`},
		{"POST", base, both, nil, 404, "expected /v1/devices"},
		{"GET", "/", "", nil, 404, "expected /v1/devices"},
		{"GET", "/v1/devices/plant/b1/twins", "", nil, 404, "expected /v1/devices"},
		{"GET", "/v1/devices/plant/%2e%2e", "", nil, 404, "expected /v1/devices"},
		{"GET", base + "heat", "", nil, 405, `expected POST, found "GET"`},
		{"DELETE", "/v1/devices/plant/b1", "", nil, 405, "expected GET"},
		{"POST", "/v1/devices", "{}", nil, 405, "expected GET"},
		{"POST", base + "heat", "", nil, 400, "unexpected EOF"},
		{"POST", base + "heat", "no", nil, 400, "expected a JSON object"},
		{"POST", base + "heat", "[1]", nil, 400, "found something else"},
		{"POST", base + "heat", `{"setpoint": 1, "fan": true`, nil, 400, "unexpected EOF"},
		{"POST", base + "heat", both + both, nil, 400, "found more behind it"},
		{"POST", base + "heat", `{"setpoint": 1, "setpoint": 2, "fan": true}`, nil, 400, `property "setpoint": expected it once`},
		{"POST", base + "heat", `{"setpoint": [1], "fan": true}`, nil, 400, "found an object, a list or null"},
		{"POST", base + "heat", `{"setpoint": null, "fan": true}`, nil, 400, "found an object, a list or null"},
		{"POST", base + "heat", "{\"setpoint\": \"\xff\", \"fan\": true}", nil, 400, "UTF-8"},
		{"POST", base + "heat", `{"setpoint": "\ud800", "fan": true}`, nil, 400, "half of one"},
		{"POST", base + "heat", `{"setpoint": 1}`, nil, 400, `property "fan": expected a value, found none`},
		{"POST", base + "heat", `{}`, nil, 400, `property "fan": expected a value, found none; property "setpoint": expected a value, found none`},
		{"POST", base + "heat", `{"setpoint": 1, "fan": true, "flow": 2}`, nil, 400, `property "flow": expected one that method "heat" sets`},
		{"POST", base + "heat", `{"setpoint": 101, "fan": 1}`, nil, 400, `property "fan": expected a text (BOOLEAN), found a number; property "setpoint": expected at most 100, found "101"`},
		{"POST", base + "heat", `{"setpoint": "warm", "fan": "true"}`, nil, 400, `expected a decimal number of 64 bits (INT), found "warm"`},
		{"POST", base + "heat", `{"setpoint": 1.5, "fan": true}`, nil, 400, "expected a decimal number of 64 bits"},
		{"POST", base + "heat", `{"setpoint": true, "fan": true}`, nil, 400, "expected a text (INT), found true or false"},
		{"POST", base + "heat", `{"setpoint": "", "fan": true}`, nil, 400, "found an empty text"},
		{"POST", base + "heat", many + "}", nil, 400, "and 10 more"},
		{"POST", base + "nothing", `{}`, nil, 400, "expected propertyNames in the Device"},
		{"POST", base + "measure", `{"flow": 1}`, nil, 400, `property "flow": expected one that can be set, found ReadOnly`},
		{"POST", base + "wish", `{"color": "red"}`, nil, 400, `property "color": expected one that the device has`},
		{"POST", base + "heat", `{"setpoint": "` + strings.Repeat("1", maxBody) + `"}`, nil, 413, "at most 262144 bytes"},
		{"POST", base + "heat", both, []string{"Content-Type", "application/cbor"}, 415, "expected application/json"},
		{"POST", base + "heat", both, twice, 400, "Idempotency-Key: expected it once"},
		{"POST", base + "heat", both, []string{"Idempotency-Key", strings.Repeat("k", 256)}, 400, "1 to 255 visible characters"},
		{"POST", base + "heat", both, []string{"Idempotency-Key", ""}, 400, "Idempotency-Key"},
		{"POST", base + "heat", both, []string{"Idempotency-Key", "schlüssel"}, 400, "Idempotency-Key"},
		{"POST", base + "heat?timeout=4s", both, nil, 400, "expected 5s to 5m0s"},
		{"POST", base + "heat?timeout=301", both, nil, 400, "expected 5s to 5m0s"},
		{"POST", base + "heat?timeout=-1h", both, nil, 400, "expected 5s to 5m0s"},
		{"POST", base + "heat?timeout=x", both, nil, 400, `such as 30s, found "x"`},
		{"POST", base + "heat?wait=5s", both, nil, 400, `expected timeout, once, found "wait"`},
		{"POST", base + "heat?timeout=5s&timeout=6s", both, nil, 400, "expected timeout, once"},
		{"POST", "/v1/devices/plant/b2/methods/heat", both, nil, 409, "ModelNotFound"},
		{"POST", "/v1/devices/plant/b2/methods/heat", `{"setpoint": 101}`, nil, 409, "ModelNotFound"},
		{"GET", "/v1/devices/plant/b1", "", []string{"user", "ann:busy"}, 503, "ask again"},
		{"POST", base + "heat", both, []string{"Origin", "http://example.org"}, 403, "pages of a browser"},
		{"GET", "/v1/devices/plant/b1", "", []string{"Host", "rebound.example.org:9060"}, 403, "expected an address or localhost in Host"},
		{"POST", base + "heat", both, []string{"user", "ann:wrong"}, 401, "devices.mqtt.users"},
		{"POST", base + "heat", both, []string{"user", "ann:ann"}, 403, `user "ann" may not publish twin/update`},
		{"GET", "/v1/devices/plant/b1", "", []string{"user", "ann:ann"}, 403, `user "ann" may not read twin/get/result`},
	} {
		r := w.do(t.Context(), c.verb, c.path, c.body, c.headers...)
		if r.err != nil || r.Code != c.code || !strings.Contains(strings.Join(r.Reasons, "; "), c.reason) {
			t.Errorf("%s %s %.60q %.60q: expected %d %q, found %+v, %v", c.verb, c.path, c.body, c.headers, c.code, c.reason, r.answer, r.err)
		}
		if r.Code == http.StatusServiceUnavailable && r.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: nothing says when to come again", c.verb, c.path)
		}
		if r.Code == http.StatusUnauthorized && !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") || r.Code == 405 && r.header.Get("Allow") == "" {
			t.Errorf("%s %s: headers %v", c.verb, c.path, r.header)
		}
	}
	w.desires()
	if n := w.metric("requests_total"); n < 50 {
		t.Errorf("%v requests were counted", n)
	}
}

func TestADeviceThatCannotWorkIsNotCalled(t *testing.T) {
	w := newWorld(t)
	w.edit(func() {
		d := w.devices["plant/b1"]
		model := d.Model.DeepCopy()
		model.Spec.Protocol = ""
		d.Model = model
		w.devices["plant/b1"] = d
	})
	w.is(w.post("b1", "heat", "", "", both), http.StatusConflict, "NoProtocol")
}

func TestBeforeTheDevicesAreKnownNoneIsSaidToBeUnknown(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.edit(func() { w.ready = make(chan struct{}) })
	w.start()
	w.is(w.do(t.Context(), "GET", "/v1/devices/plant/none", ""), http.StatusServiceUnavailable, "is starting")
	w.is(w.post("b1", "heat", "", "", both), http.StatusServiceUnavailable, "is starting")
}

// get reads JSON.
func (w *world) get(path, user string) (out map[string]any) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, user)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		w.t.Fatalf("%s: %s %v %s: %v", path, resp.Status, resp.Header, data, err)
	}
	return out
}

func TestDevicesAreShownToThoseWhoMayReadThem(t *testing.T) {
	w := newWorld(t)
	w.edit(func() {
		d := w.devices["plant/b1"]
		d.State, d.LastOnline = "online", time.Unix(1_700_000_000, 0)
		d.Properties["setpoint"] = &twin.Property{Own: true, Type: v1beta1.Int, Cloud: &twin.Value{Value: "60"}, Edge: &twin.Value{Value: "50", Metadata: map[string]string{"timestamp": "7"}, Call: "c"},
			Reported: &twin.Value{Value: "49"}, DesiredVersions: twin.Versions{Cloud: 1, Edge: 2}, ReportedVersions: twin.Versions{Edge: 3}}
		d.Properties["label"] = &twin.Property{Own: true, Cloud: &twin.Value{Value: "x"}}
		w.devices["plant/b1"] = d
		w.away["plant/b2"] = true
	})
	got, err := json.Marshal(w.get("/v1/devices/plant/b1", ""))
	if err != nil {
		t.Fatal(err)
	}
	const zero = `"desiredVersion":{"cloud":0,"edge":0},"propertyName":"%s","reportedVersion":{"cloud":0,"edge":0}`
	want := `{"conditions":[{"reason":"Connected","status":"True","type":"MapperConnected"}],"lastOnlineTime":"2023-11-14T22:13:20Z","mapperConnected":true,"methods":[` +
		`{"description":"warms","name":"heat","propertyNames":["setpoint","fan"]},{"name":"set","propertyNames":["setpoint"]},{"name":"name it/now","propertyNames":["label"]},` +
		`{"name":"nothing","propertyNames":[]},{"name":"measure","propertyNames":["flow"]},{"name":"wish","propertyNames":["color"]}],"model":"boiler","name":"b1","namespace":"plant",` +
		`"protocol":"virtual","state":"online","twins":[{` + fmt.Sprintf(zero, "fan") + `},{` + fmt.Sprintf(zero, "flow") + `},{"desired":{"by":"cloud","value":"x"},` + fmt.Sprintf(zero, "label") + `},` +
		`{"desired":{"by":"edge","call":"c","metadata":{"timestamp":"7"},"value":"50"},"desiredVersion":{"cloud":1,"edge":2},"propertyName":"setpoint","reported":{"value":"49"},` +
		`"reportedVersion":{"cloud":0,"edge":3},"type":"INT"}],"uid":"uid-b1"}`
	if string(got) != want {
		t.Errorf("found    %s\nexpected %s", got, want)
	}
	names := func(path, user string) (all []string) {
		for _, d := range w.get(path, user)["devices"].([]any) {
			all = append(all, fmt.Sprint(d.(map[string]any)["name"], d.(map[string]any)["mapperConnected"]))
		}
		return all
	}
	if got := fmt.Sprint(names("/v1/devices", ""), names("/v1/devices/", "ann")); got != "[b1true b2false] []" {
		t.Errorf("found %s", got)
	}
	w.users.read["ann plant/b2"] = true
	if got := fmt.Sprint(names("/v1/devices", "ann")); got != "[b2false]" {
		t.Errorf("found %s", got)
	}
	if d := w.get("/v1/devices/plant/b2", "ann"); d["name"] != "b2" {
		t.Errorf("found %v", d)
	}
}

// Whoever opens connections and says nothing, or half of something, keeps nobody out; and a request that waits is not closed for a
// newer connection.
func TestSilentConnectionsGiveWay(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections = 3 })
	c := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	var silent []net.Conn
	for i := range 20 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /v1/devices HTTP/1.1\r\nHo"[:i]); err != nil {
			t.Logf("it was closed before it spoke: %v", err)
		}
		silent = append(silent, conn)
	}
	w.get("/v1/devices", "")
	for _, conn := range silent[:17] {
		if err := conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("a silent connection is kept: %v", err)
		}
	}
	w.report("b1", "setpoint", "1", "1")
	w.gets(c, http.StatusOK, "")
	if n := w.metric("connections"); n > 3 {
		t.Errorf("%v connections are open", n)
	}
	if n := w.metric("refused_connections_total"); n < 17 {
		t.Errorf("%v connections gave way", n)
	}
}

func TestADeviceThatGoesWhileItIsAskedForIsNoFault(t *testing.T) {
	w := newWorld(t)
	w.edit(func() { w.leaving["plant/b1"] = true })
	if d := w.get("/v1/devices/plant/b1", ""); d["name"] != "b1" {
		t.Errorf("found %v", d)
	}
	w.is(w.do(t.Context(), "GET", "/v1/devices/plant/b1", ""), http.StatusNotFound, "no device")
	if n := w.metric("panics_total"); n != 0 {
		t.Errorf("%v faults", n)
	}
}

// Who has no password is answered at once, and holds no place, though the body that he announced never comes.
func TestStrangersKeepNobodyOut(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections, c.Patience = 2, time.Hour })
	address := strings.TrimPrefix(w.url, "http://")
	for _, ask := range []string{"GET /v1/devices", "GET /v1/devices", "POST /v1/devices/plant/b1/methods/set"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, ask+" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic YW5uOndyb25n\r\nContent-Length: 1000\r\n\r\n{"); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if said, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(said, "401") {
			t.Fatalf("%s: found %q, %v", ask, said, err)
		}
	}
	w.get("/v1/devices", "")
}

func TestRequestsThatWaitTakePlacesAndNoMore(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections = 1 })
	c := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	if r := w.post("b1", "set", "", "", `{"setpoint": 1}`); r.err == nil {
		t.Errorf("a connection beyond the limit was answered with %+v", r.answer)
	}
	w.report("b1", "setpoint", "1", "1")
	w.gets(c, http.StatusOK, "")
	w.is(w.post("b1", "cool", "", "", ""), http.StatusBadRequest, "") // its place is free again
}

func TestWhoSendsSlowlyIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = time.Second })
	const hundred = " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
	for _, begin := range []string{"GET /v1/devices HTTP/1.1\r\n", "POST /v1/devices/plant/b1/methods/set" + hundred + "\r\n{", "GET /v1/devices" + hundred + "\r\n",
		"GET /v1/devices/plant/none" + hundred + "\r\n", "GET /v1/devices" + hundred + "Authorization: Basic YW5uOndyb25n\r\n\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(conn)
		if err != nil || strings.HasPrefix(begin, "POST") && !bytes.Contains(said, []byte("the body ended early")) {
			t.Errorf("%q: found %q, %v", begin, said, err)
		}
	}
	// A call that waits longer than that is not slow.
	c := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	for end := time.Now().Add(2 * w.cfg.Patience); time.Now().Before(end); {
		w.get("/v1/devices", "")
	}
	w.report("b1", "setpoint", "1", "1")
	w.gets(c, http.StatusOK, "")
}

func TestDevicesAreServedWithTLS(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA("test", time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueServer([]string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "c"), filepath.Join(dir, "k")
	if err := pair.Save(cert, key); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.ListenTLS, c.CertFile, c.KeyFile = "127.0.0.1:0", cert, key })
	roots := ca.Cert()
	transport := w.client.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{VerifyConnection: func(s tls.ConnectionState) error { return s.PeerCertificates[0].CheckSignatureFrom(roots) }, InsecureSkipVerify: true}
	w.url = "https://" + w.plant.server.Addresses()[1]
	c := w.posting("b1", "set", "", "", `{"setpoint": 1}`)
	w.desires("b1 setpoint=1")
	w.report("b1", "setpoint", "1", "1")
	w.gets(c, http.StatusOK, "")
	old, err := tls.Dial("tcp", w.plant.server.Addresses()[1], &tls.Config{MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true})
	if err == nil {
		_ = old.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

func TestAPortThatCannotBeOpenedIsSaid(t *testing.T) {
	w := newWorld(t)
	taken := w.plant.server.Addresses()[0]
	for what, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"a port that is taken": {Config{Listen: taken}, "address already in use"},
		"a TLS port that is":   {Config{Listen: "127.0.0.1:0", ListenTLS: taken, CertFile: "none", KeyFile: "none"}, "certificate of the TLS port"},
		"no port":              {Config{}, "expected an address"},
	} {
		s := New(c.cfg, Deps{Devices: w.plant, Memory: w.plant, Users: w.users, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
		for range 2 { // it may be started again
			if err := s.Start(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: expected %q, found %v", what, c.want, err)
			}
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/v1/devices", "/v1/devices/", "/v1/devices/ns/name", "/v1/devices/ns/name/methods/m", "/v1/devices/ns/a.b/methods/a%2Fb%00", "/v1/devices//x", "/v1/devices/%2e%2e/x", "/v1/devicesx", "", "%zz"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parsePath(path)
		if !ok {
			return
		}
		if r.what != list && (strings.ContainsAny(r.namespace+r.name, "/+#$%\x00 ") || r.namespace == "" || r.name == "") || (r.what == method) != (r.method != "") {
			t.Errorf("%q is %+v", path, r)
		}
	})
}

func FuzzBody(f *testing.F) {
	for _, b := range []string{both, "{}", "", "[]", `{"a":{"b":1}}`, `{"a":1e400}`, `{"a":"\ud800"}`, `{"a":1,}`, `{"a" 1}`, `{1:2}`, "{\"\\u0000\":-0}", `{"a":tru`, strings.Repeat("[", 10000), "\xff"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		values, err := parseBody(body)
		if err != nil {
			return
		}
		var same map[string]json.RawMessage
		if err := json.Unmarshal(body, &same); err != nil || len(same) != len(values) {
			t.Errorf("%q is %v, and %q to another reader: %v", body, values, same, err)
		}
		for name, v := range values {
			raw := string(same[name])
			if was := ""; v.kind == text {
				if json.Unmarshal(same[name], &was) != nil || was != v.text {
					t.Errorf("%q: %q is %v", body, name, v)
				}
			} else if raw != v.text {
				t.Errorf("%q: %q is %v", body, name, v)
			}
		}
	})
}

func FuzzNote(f *testing.F) {
	c := &call{name: "c", key: sum("k"), namespace: "plant", device: "b1", uid: "u", method: "m", settings: map[string]setting{"a": {Value: "1"}}}
	n, err := c.note(map[string]string{"a": "1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(n.Key, n.Value)
	f.Add(n.Key[1:], n.Value)
	f.Add("", []byte("{}"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		c, err := parseNote(key, value)
		if err != nil {
			return
		}
		if c.noteKey() != key {
			t.Errorf("the call of note %q has %q", key, c.noteKey())
		}
		if n, err := c.note(nil); err != nil || n.Key != key {
			t.Errorf("kept again it is %v, %v", n, err)
		}
	})
}
