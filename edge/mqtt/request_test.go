package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const pump = "$hw/events/device/plant/pump/"

// Every request gets exactly the result that device software expects, on the topic that it expects.
func TestRequestsAreAnsweredAsKubeEdgeDoes(t *testing.T) {
	r := start(t, nil, nil)
	c := dial(t, options(r.Address(), "mapper"))
	c.subscribe(t, "$hw/events/#", 1)
	const at = `"timestamp":1700000000123`
	for _, x := range []struct{ topic, payload, result string }{
		{pump + "twin/get", ``, `{"event_id":"",` + at + `,"twin":{"speed":{"actual":{"value":"0"},"metadata":{"type":"INT"},"actual_version":{"cloud":0,"edge":0}},"unit":{"actual":{"value":"rpm"}}}}`},
		{pump + "twin/update", `{"event_id":"e1","timestamp":5,"twin":{"speed":{"actual":{"value":"7","metadata":{"timestamp":5}},"metadata":{"type":"INT"}}}}`,
			`{"event_id":"e1",` + at + `,"twin":{"speed":{"actual":{"value":"7","metadata":{"timestamp":5}},"metadata":{"type":"INT"}}}}`},
		{pump + "state/update", `{"event_id":"e2","state":"online"}`, `{"event_id":"e2",` + at + `,"device":{"name":"pump","state":"online","lastOnlineTime":"2026-01-02T03:04:05Z"}}`},
		{"$hw/events/node/edge-1/membership/get", `{"event_id":"e3"}`, `{"event_id":"e3",` + at + `,"devices":[{"id":"plant/pump","name":"pump","description":"cellar","state":"ok"}]}`},
		{"$hw/events/node/other/membership/get", `{"event_id":"e10"}`, `{"event_id":"e10",` + at + `,"code":404,"reason":"not found: expected node edge-1, found other"}`},
		{"$hw/events/device/other/pump/twin/get", `{"event_id":"e4"}`, `{"event_id":"e4",` + at + `,"code":404,"reason":"device other/pump: not found"}`},
		{"$hw/events/device/plant/x/twin/update", `{"twin":{"a":{}}}`, `{"event_id":"",` + at + `,"code":404,"reason":"device plant/x: not found"}`},
		{"$hw/events/device/plant/x/state/update", `{"state":"ok"}`, `{"event_id":"",` + at + `,"code":404,"reason":"device plant/x: not found"}`},
		{pump + "twin/update", `{"event_id":"e5","twin":{"speed":{"actual":{"value":7}}}}`, `{"event_id":"e5",` + at + `,"code":400,"reason":"invalid: twin.actual.value: expected string, found number"}`},
		{pump + "twin/update", `{"event_id":7,"twin":{"speed":{}}}`, `{"event_id":"",` + at + `,"code":400,"reason":"invalid: event_id: expected string, found number"}`},
		{pump + "twin/update", `{"event_id":"e6","twin":[]}`, `{"event_id":"e6",` + at + `,"code":400,"reason":"invalid: twin: expected map[string]*mqtt.Property, found array"}`},
		{pump + "twin/update", `{"event_id":"e7"}`, `{"event_id":"e7",` + at + `,"code":400,"reason":"invalid: twin: expected 1 to 1000 properties, found 0"}`},
		{pump + "twin/update", `{"event_id":"e8","twin":{"speed":null}}`, `{"event_id":"e8",` + at + `,"code":400,"reason":"invalid: twin: property \"speed\": expected a name and an object"}`},
		{pump + "twin/update", `{"event_id":`, `{"event_id":"",` + at + `,"code":400,"reason":"invalid: unexpected end of JSON input"}`},
		{pump + "twin/get", "\xff", `{"event_id":"",` + at + `,"code":400,"reason":"invalid: the payload: expected UTF-8"}`},
		{pump + "twin/update", `{"event_id":"e10","twin":{"unit":{"actual":{"value":"\ud800"}}}}`, `{"event_id":"",` + at + `,"code":400,"reason":"invalid: the payload: expected characters, found half of one, \\ud800"}`},
		// A property that is there twice is what it is the second time.
		{pump + "twin/update", `{"event_id":"e11","twin":{"speed":{"actual":{"value":"8"},"expected":{"value":"9"}},"speed":{"actual":{"value":"7","metadata":{"timestamp":5}},"metadata":{"type":"INT"}}}}`,
			`{"event_id":"e11",` + at + `,"twin":{"speed":{"actual":{"value":"7","metadata":{"timestamp":5}},"metadata":{"type":"INT"}}}}`},
		{pump + "state/update", `{"event_id":"e9","state":"broken"}`, `{"event_id":"e9",` + at + `,"code":400,"reason":"invalid: state: expected online, offline, ok, unknown or unhealthy, found \"broken\""}`},
		{"$hw/events/device/" + strings.Repeat("n", 254) + "/x/twin/get", ``, `{"event_id":"",` + at + `,"code":400,"reason":"invalid: expected names of at most 253 bytes"}`},
		{pump + "twin/get", strings.Repeat(" ", 256<<10+1), `{"event_id":"",` + at + `,"code":400,"reason":"invalid: the payload has 262145 bytes, expected at most 262144"}`},
	} {
		c.publish(t, x.topic, 1, false, x.payload)
		// The result comes first: whoever asks is answered before others hear that it asked.
		c.expect(t, x.topic+"/result", strings.ReplaceAll(x.result, "map[string]*mqtt.Property", "an object"))
		c.expect(t, x.topic, x.payload)
	}
	if n := testutil.ToFloat64(r.metrics.requests.WithLabelValues("membership/get", "404")); n != 1 {
		t.Errorf("expected the request for another node to be counted, found %v", n)
	}
	if n := testutil.ToFloat64(r.metrics.requests.WithLabelValues("twin/update", "400")); n != 7 {
		t.Errorf("expected 7 refused updates to be counted, found %v", n)
	}
}

func TestTheEnginesErrorsBecomeCodes(t *testing.T) {
	r := start(t, nil, nil)
	c := dial(t, options(r.Address(), "mapper"))
	c.subscribe(t, pump+"twin/update/result", 1)
	for _, x := range []struct {
		err    error
		answer string
	}{
		{fmt.Errorf("speed: %w: above its maximum", ErrInvalid), `"code":400,"reason":"speed: invalid: above its maximum"`},
		{errors.New("sqlite: secret path"), `"code":500,"reason":"the edge failed; its log says why"`},
	} {
		r.devices.mu.Lock()
		r.devices.fail = x.err
		r.devices.mu.Unlock()
		c.publish(t, pump+"twin/update", 1, false, `{"event_id":"e","twin":{"speed":{}}}`)
		c.expect(t, pump+"twin/update/result", `{"event_id":"e","timestamp":1700000000123,`+x.answer+`}`)
	}
	r.devices.mu.Lock()
	r.devices.panics = true
	r.devices.mu.Unlock()
	c.publish(t, pump+"twin/update", 1, false, `{"event_id":"e","twin":{"speed":{}}}`)
	c.expect(t, pump+"twin/update/result", `{"event_id":"","timestamp":1700000000123,"code":500,"reason":"the edge failed; its log says why"}`)
	if n := testutil.ToFloat64(r.metrics.panics); n != 1 {
		t.Errorf("expected one panic to be counted, found %v", n)
	}
}

func TestNoticesHaveTheirTopicsAndPayloads(t *testing.T) {
	r := start(t, nil, nil)
	c := dial(t, options(r.Address(), "app"))
	c.subscribe(t, "$hw/#", 1)
	old, now := Property{Actual: &Value{Value: text("1")}}, Property{Expected: &Value{Value: text("2")}, Actual: &Value{Value: text("1")}}
	r.Document("plant", "pump", map[string]Shift{"speed": {&old, &now}})
	c.expect(t, pump+"twin/update/document", `{"event_id":"","timestamp":1700000000123,"twin":{"speed":{"last":{"actual":{"value":"1"}},"current":{"expected":{"value":"2"},"actual":{"value":"1"}}}}}`)
	r.Delta("plant", "pump", map[string]Property{"speed": now}, map[string]string{"speed": "2"})
	c.expect(t, pump+"twin/update/delta", `{"event_id":"","timestamp":1700000000123,"twin":{"speed":{"expected":{"value":"2"},"actual":{"value":"1"}}},"delta":{"speed":"2"}}`)
	r.Updated("plant", "pump")
	c.expect(t, pump+"updated", `{"event_id":"","timestamp":1700000000123,"attributes":{}}`)
	r.Members([]Info{{Namespace: "plant", Name: "pump"}}, nil)
	c.expect(t, "$hw/events/node/edge-1/membership/updated", `{"event_id":"","timestamp":1700000000123,"added_devices":[{"id":"plant/pump","name":"pump"}],"removed_devices":[]}`)
}

// Who owns the twins tells of changes while it holds what it needs for the next one.
func TestNoticesNeverBlockTheEngine(t *testing.T) {
	cfg := Default("edge-1")
	s := New(cfg, Deps{Devices: &plant{}, Log: quietLog(), Registry: prometheus.NewRegistry(), Now: clock})
	for range maxNotices + 10 { // nobody publishes: it was not started
		s.Updated("plant", "pump")
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("notice")); n != 10 {
		t.Errorf("expected the 10 notices beyond the queue to be counted, found %v", n)
	}
	s = New(cfg, Deps{Devices: &plant{}, Log: quietLog(), Registry: prometheus.NewRegistry(), Now: clock})
	big := Property{Actual: &Value{Value: text(strings.Repeat("x", maxNoticeBytes/4))}}
	for range 5 {
		s.Document("plant", "pump", map[string]Shift{"speed": {nil, &big}})
	}
	if n := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("notice")); n != 2 {
		t.Errorf("expected the 2 notices beyond the bytes to be counted, found %v", n)
	}
}

// A client that publishes what only the edge says would have others believe it.
func TestOnlyTheEdgePublishesWhatTheEdgeSays(t *testing.T) {
	r := start(t, &ram{}, nil)
	c := dial(t, options(r.Address(), "liar"))
	c.subscribe(t, "$hw/#", 1)
	fakes := []string{pump + "twin/update/result", pump + "twin/update/delta", pump + "twin/update/document", pump + "updated",
		pump + "twin/get/result", "$hw/events/node/edge-1/membership/updated", "$hw/events/node//membership/get", "$hw/x",
		"$SYS/x"} // publish waits for the acknowledgement of each
	for _, topic := range fakes {
		c.publish(t, topic, 1, true, "fake")
	}
	c.publish(t, pump+"state/update", 0, false, `{"state":"ok"}`)
	if m := c.next(t); m.Topic() != pump+"state/update/result" {
		t.Fatalf("expected nothing of the fakes, found %s", m.Topic())
	}
	c.publish(t, pump+"state/update", 1, true, `{"state":"ok"}`)
	if r.mem.count(bucketRetained) != 0 {
		t.Error("expected no request to be retained: it would be made again at each start")
	}
	if n := testutil.ToFloat64(r.metrics.denied.WithLabelValues("reserved")); int(n) != len(fakes) {
		t.Errorf("expected %d refusals to be counted, found %v", len(fakes), n)
	}
}

func TestUploadsAreHandedOn(t *testing.T) {
	r := start(t, nil, nil)
	c := dial(t, options(r.Address(), "c"))
	c.publish(t, "SYS/dis/upload_records", 1, false, "x")
	if n := testutil.ToFloat64(r.metrics.uploads.WithLabelValues("unsupported")); n != 1 {
		t.Errorf("expected the upload that nobody takes to be counted, found %v", n)
	}
}
