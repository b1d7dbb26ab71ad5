package drill

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func TestAnOrderIsReadAsItWasWritten(t *testing.T) {
	o := Order{ID: "a1", For: metav1.Duration{Duration: 10 * time.Minute}, Power: true, Issued: noon}
	got, err := ParseOrder(o.Text())
	if err != nil || got != o {
		t.Errorf("read %+v, %v, wrote %+v", got, err, o)
	}
	if _, err := ParseOrder(`{"id":"a1","for":"10m","issued":"2030-06-01T12:00:00Z","later":1}`); err != nil {
		t.Errorf("what a newer keadm says besides is no fault: %v", err)
	}
}

func TestWhatIsNoOrderIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"":   "unexpected end",
		"10": "cannot unmarshal",
		`{"for":"10m","issued":"2030-06-01T12:00:00Z"}`:              `id: expected 1 to 32 letters and digits, found ""`,
		`{"id":"a b","for":"10m","issued":"2030-06-01T12:00:00Z"}`:   `found "a b"`,
		`{"id":"a","for":"9s","issued":"2030-06-01T12:00:00Z"}`:      "for: expected 10s to 24h0m0s, found 9s",
		`{"id":"a","for":"24h0m1s","issued":"2030-06-01T12:00:00Z"}`: "found 24h0m1s",
		`{"id":"a","for":"-1h","issued":"2030-06-01T12:00:00Z"}`:     "found -1h0m0s",
		`{"id":"a","for":"10m"}`:                                     "issued: expected a time",
		`{"id":"a","for":"` + strings.Repeat("1", MaxOrder) + `"}`:   "expected at most 1024 bytes",
	} {
		if _, err := ParseOrder(text); !errors.Is(err, ErrOrder) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, expected ErrOrder and %q", text, err, want)
		}
	}
}

// However much happens, a Node has room for what is said of it, and what broke is the last to be left out.
func TestAReportFitsAndSaysWhatItLeavesOut(t *testing.T) {
	r := &Report{Began: noon, Ended: noon.Add(time.Hour), End: "its deadline", Broke: []string{strings.Repeat("é", 400), "pod shop/web-0 is gone"}}
	for i := range 500 {
		r.Changes = append(r.Changes, Change{noon, fmt.Sprintf("change %d %s", i, strings.Repeat("x", 400))})
	}
	text := State{ID: "a1", Phase: Done, Report: r}.Text()
	if len(text) > MaxState {
		t.Errorf("%d bytes, expected at most %d", len(text), MaxState)
	}
	s, err := ParseState(text)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Report; len(got.Changes) == 0 || len(got.Changes)+got.MoreChanges != 500 || !strings.HasPrefix(got.Changes[0].What, "change 0 ") || len(got.Broke) != 2 || got.MoreBroke != 0 {
		t.Errorf("%d changes and %d more, %d broke: expected the first changes, 500 together, and 2 broke", len(got.Changes), got.MoreChanges, len(got.Broke))
	}
	if len(r.Changes) != 500 {
		t.Errorf("the report itself was shortened to %d changes", len(r.Changes))
	}
	r.Changes, r.Broke = nil, nil
	for i := range 100 {
		r.Broke = append(r.Broke, fmt.Sprintf("thing %d %s", i, strings.Repeat("x", 400)))
	}
	if s, err = ParseState(State{ID: "a1", Phase: Done, Report: r}.Text()); err != nil || len(s.Report.Broke) == 0 || len(s.Report.Broke)+s.Report.MoreBroke != 100 {
		t.Errorf("%+v, %v: expected 100 that broke, some of them counted only", s, err)
	}
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	s := &State{ID: "a1", Phase: Done, Why: "w", Until: noon, Report: &Report{Began: noon, Ended: noon, End: "e", Reads: 3, Waited: []Waiting{{"state", 1, 2}}, Broke: []string{"x"}}}
	if got, err := ParseState(s.Text()); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("read %+v, %v, wrote %+v", got, err, s)
	}
	if _, err := ParseState("later"); err == nil || !strings.Contains(err.Error(), AnnotationState) {
		t.Errorf("%v, expected an error that names the annotation", err)
	}
}
