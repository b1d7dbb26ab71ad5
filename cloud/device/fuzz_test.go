package device

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// FuzzReport: whatever an edge sends, it is refused with a reason, or is something that the API server can keep and that is the
// same once it was kept.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{}`), "uid-1")
	f.Add(body("45"), "uid-1")
	f.Add([]byte(`{"uid":"uid-1","twins":[{"propertyName":"a"},{"propertyName":"b","observedDesired":{"value":""}}],"conditions":[{"type":"Reported","status":"True","reason":"a","lastTransitionTime":"2026-01-02T03:04:05.6Z"}]}`), "")
	f.Add([]byte(`{"twins":[{},{}]`), "uid-1")
	f.Add([]byte("{\"state\":\"\xff\"}"), "uid-1")
	f.Add([]byte(strings.Repeat("[", 100)), "uid-1")
	f.Fuzz(func(t *testing.T, body []byte, uid string) {
		r, refused := parse(body, uid)
		if (r == nil) == (refused == nil) {
			t.Fatalf("got %v and %v", r, refused)
		}
		if refused != nil {
			if !refused.Final || refused.Code < 400 || refused.Reason == "" || refused.Message == "" {
				t.Errorf("refused with %v", refused)
			}
			return
		}
		if found := device.JudgeReported(r.Twins); len(found) > 0 || len(r.Conditions) > 2 || r.UID == "" {
			t.Errorf("taken: %v, %+v", found, r)
		}
		d := newDevice("pump", "edge-1")
		d.UID = "uid-1"
		v := view{device: d, model: newModel("60")}
		now := testTime
		desired := func(current *v1beta1.DeviceStatus, r *Report, now time.Time) *v1beta1.DeviceStatus {
			s, err := desire(v, current, r, now)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		kept, err := patched(desired(nil, r, now), []byte(`{}`)) // as JSON has it
		if err != nil {
			t.Fatal(err)
		}
		if patch, err := makePatch(kept, desired(kept, r, now.Add(1e9)), true); err != nil || patch != nil {
			t.Errorf("the same report again is a patch: %s, %v", patch, err)
		}
		if patch, err := makePatch(kept, desired(kept, nil, now.Add(1e9)), true); err != nil || patch != nil {
			t.Errorf("no report is a patch: %s, %v", patch, err)
		}
		m := memory{}
		if lost, err := m.look(d, kept, true); err != nil || lost != nil || !m.of(d) {
			t.Errorf("what was kept is taken for somebody else's: %+v, %v", lost, err)
		}
	})
}

func TestAReportThatCannotBeKeptIsRefusedWithItsReason(t *testing.T) {
	twins := func(n, bytes int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,{"propertyName":"p%d","reported":{"value":%q,"metadata":{"timestamp":"1700000000000","type":"INT","x":"y"}},"observedDesired":{"value":"1","metadata":{"timestamp":"1","a":"b","c":"d"}}}`,
				i, strings.Repeat("v", bytes))
		}
		return `{"twins":[` + b.String()[1:] + `]}`
	}
	for name, c := range map[string]struct {
		body   string
		code   int32
		reason string
		says   string
	}{
		"no JSON":             {"x", http.StatusBadRequest, "BadRequest", "invalid character"},
		"cut":                 {`{"twins":[`, http.StatusBadRequest, "BadRequest", "EOF"},
		"no object":           {`[]`, http.StatusBadRequest, "BadRequest", "cannot unmarshal"},
		"no UTF-8":            {"{\"state\":\"\xff\"}", http.StatusBadRequest, "BadRequest", "UTF-8"},
		"another uid":         {`{"uid":"uid-2"}`, http.StatusBadRequest, "BadRequest", "the same in body and write"},
		"a bomb":              {`{"twins":[{}` + strings.Repeat(",{}", maxValues) + `]}`, http.StatusBadRequest, "BadRequest", "more than 32000 values"},
		"too many bytes":      {`{"state":"` + strings.Repeat("a", maxBody) + `"}`, http.StatusBadRequest, "BadRequest", "at most 1048576 bytes"},
		"too many properties": {twins(v1beta1.MaxProperties+1, 1), http.StatusUnprocessableEntity, device.ReasonTooManyProperties, "at most 1000"},
		"too much reported":   {twins(2, v1beta1.MaxReportedBytes/2+1), http.StatusUnprocessableEntity, device.ReasonReportedTooLarge, "at most 65536 bytes"},
		"a long observed value": {`{"twins":[{"propertyName":"a","observedDesired":{"value":"` + strings.Repeat("v", v1beta1.MaxDesiredBytes+1) + `"}}]}`,
			http.StatusUnprocessableEntity, "Invalid", "observedDesired"},
		"no name":         {`{"twins":[{}]}`, http.StatusUnprocessableEntity, "Invalid", "a name for each property"},
		"a name twice":    {`{"twins":[{"propertyName":"a"},{"propertyName":"a"}]}`, http.StatusUnprocessableEntity, "Invalid", "each once"},
		"a long state":    {`{"state":"` + strings.Repeat("a", maxState+1) + `"}`, http.StatusUnprocessableEntity, "Invalid", "at most 64 bytes"},
		"a status":        {`{"conditions":[{"type":"Reported","status":"Perhaps","reason":"a"}]}`, http.StatusUnprocessableEntity, "Invalid", "True, False or Unknown"},
		"no reason":       {`{"conditions":[{"type":"Reported","status":"True"}]}`, http.StatusUnprocessableEntity, "Invalid", "expected a reason"},
		"a reason":        {`{"conditions":[{"type":"Reported","status":"True","reason":"a b"}]}`, http.StatusUnprocessableEntity, "Invalid", "expected a reason"},
		"a condition two": {`{"conditions":[{"type":"Reported","status":"True","reason":"a"},{"type":"Reported","status":"True","reason":"a"}]}`, http.StatusUnprocessableEntity, "Invalid", "once"},
	} {
		_, refused := parse([]byte(c.body), "uid-1")
		if refused == nil || refused.Code != c.code || refused.Reason != c.reason || !refused.Final || !strings.Contains(refused.Message, c.says) || len(refused.Message) > 2000 {
			t.Errorf("%s: got %.300v, expected %d %s that says %q", name, refused, c.code, c.reason, c.says)
		}
	}
	// A full device fits, and what a newer edge adds is left out.
	for _, ok := range []string{twins(v1beta1.MaxProperties, 1), twins(100, 655), `{"new":{"a":[1]},"conditions":[{"type":"New","status":"Perhaps"}]}`} {
		r, refused := parse([]byte(ok), "uid-1")
		if refused != nil || len(r.Conditions) > 0 {
			t.Errorf("%.80s: %v, %v", ok, r, refused)
		}
	}
}

// The edge's time of a change is kept, unless its clock is ahead.
func TestATransitionIsWhenTheEdgeSawItAndNeverInTheFuture(t *testing.T) {
	for said, want := range map[string]string{
		"2026-01-01T00:00:00Z": "2026-01-01T00:00:00Z",
		"2026-05-01T00:00:00Z": "2026-02-01T00:00:00Z",
	} {
		r, refused := parse([]byte(`{"conditions":[{"type":"Reported","status":"True","reason":"a","lastTransitionTime":"`+said+`"}]}`), "uid-1")
		if refused != nil {
			t.Fatal(refused)
		}
		s, err := desire(view{device: newDevice("pump", "edge-1")}, nil, r, testTime)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Status.Conditions[indexOf(s.Status.Conditions, "Reported")].LastTransitionTime.UTC().Format("2006-01-02T15:04:05Z"); got != want {
			t.Errorf("an edge that says %s gives %s, expected %s", said, got, want)
		}
	}
}
