package mqtt

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

func FuzzPayloads(f *testing.F) {
	for _, s := range []string{``, `{}`, `null`, `{"event_id":"e","timestamp":1,"twin":{"a":{"expected":{"value":"1","metadata":{"timestamp":2}},"optional":true}}}`,
		`{"twin":{"":{}}}`, `{"state":"ok"}`, `{"event_id":7}`, `[[[[`, "\xff", `{"twin":{"a":{"metadata":{"type":"deleted"}}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, u, err := parseUpdate(b)
		if err == nil && (len(u.Twin) == 0 || len(u.Twin) > maxProperties) {
			t.Errorf("an update of %d properties was taken", len(u.Twin))
		}
		if len(h.EventID) > maxEventID || !utf8.ValidString(h.EventID) {
			t.Errorf("event id %q was taken", h.EventID)
		}
		if _, state, err := parseState(b); err == nil && state == "" {
			t.Error("no state was taken for one")
		}
		_, _ = parseGet(b)
		a := &answerer{node: "n", devices: &plant{}, maxPayload: 1 << 20, timeout: time.Second, log: quietLog(), now: clock, metrics: newMetrics(prometheus.NewRegistry())}
		for _, topic := range []string{pump + "twin/update", pump + "twin/get", pump + "state/update", "$hw/events/node/n/membership/get"} {
			m := a.answer(t.Context(), topic, b)
			if m == nil || m.topic != topic+"/result" || !json.Valid(m.payload) {
				t.Errorf("%s: expected a result in JSON, found %v", topic, m)
			}
		}
	})
}

func FuzzTopics(f *testing.F) {
	for _, s := range []string{pump + "twin/update", pump + "twin/update/result", "$hw/events/node/n/membership/get", "SYS/dis/upload_records", "#", "+/+", "a//b", "$share/g/a/#", "a\x00", "$hw/", "/"} {
		f.Add(s, "a/+/#")
	}
	f.Fuzz(func(t *testing.T, topic, filter string) {
		r, ok := parseTopic(topic)
		if ok && strings.HasPrefix(topic, hw) && reserved(topic) {
			t.Errorf("%q is a request and reserved", topic)
		}
		if ok && r.kind != upload && r.kind != membershipGet && deviceTopic(r.namespace, r.name, r.kind.String()) != topic {
			t.Errorf("%q was taken apart as %+v", topic, r)
		}
		if !validFilter(filter) {
			return
		}
		if ok && !strings.ContainsAny(topic, "+#\x00") && covers(filter, topic) != matches(filter, topic) {
			t.Errorf("covers(%q, %q) is %v", filter, topic, covers(filter, topic))
		}
		if validFilter(topic) && covers(filter, topic) { // then each topic that matches the second matches the first
			for _, word := range []string{"a", ""} {
				one := strings.ReplaceAll(strings.ReplaceAll(topic, "+", word), "#", word+"/"+word)
				if matches(topic, one) && !matches(filter, one) {
					t.Errorf("%q covers %q, and does not match %q", filter, topic, one)
				}
			}
		}
	})
}

// matches is section 4.7 of MQTT 3.1.1, written once more, by recursion.
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") && strings.IndexAny(filter, "+#") == 0 {
		return false
	}
	var match func(f, t []string) bool
	match = func(f, t []string) bool {
		switch {
		case len(f) == 0:
			return len(t) == 0
		case f[0] == "#":
			return true
		case len(t) == 0:
			return false
		}
		return (f[0] == "+" || f[0] == t[0]) && match(f[1:], t[1:])
	}
	return match(strings.Split(filter, "/"), strings.Split(topic, "/"))
}
