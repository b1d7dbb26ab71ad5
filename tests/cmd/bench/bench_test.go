package main

import (
	"context"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestCommandLineNamesWhatIsWrong(t *testing.T) {
	for args, words := range map[string]string{"--only size,dance": `found "dance"`, "now": "flags only", "--repeat -1": "0 or more"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: expected an error with %q, found %v", args, words, err)
		}
	}
	all, err := parse(nil, io.Discard)
	if err != nil || !slices.Equal(all.only, rowNames()) {
		t.Errorf("expected every row by default, found %v, %v", all.only, err)
	}
	none, err := parse([]string{"--only", "none"}, io.Discard)
	if err != nil || len(none.only) != 0 {
		t.Errorf("expected no row, found %v, %v", none.only, err)
	}
}

func TestMedianSpreadAndVerdict(t *testing.T) {
	odd := Figure{Values: []float64{3, 1, 2}, Limit: atMost(2)}
	odd.summarize()
	even := Figure{Values: []float64{1, 4, 2, 3}, Limit: atMost(2)}
	even.summarize()
	if odd.Median != 2 || odd.Min != 1 || odd.Max != 3 || odd.verdict() != "met" {
		t.Errorf("expected median 2 of 1 to 3, met, found %+v, %s", odd, odd.verdict())
	}
	if even.Median != 2.5 || even.verdict() != "MISSED" {
		t.Errorf("expected median 2.5, missed, found %+v, %s", even, even.verdict())
	}
	if p := percentile([]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 90); p != 9 {
		t.Errorf("expected the 90th percentile of 1 to 10 to be 9, found %v", p)
	}
	if none := (&Figure{Values: []float64{5}}); none.verdict() != "" || none.target() != "" {
		t.Errorf("expected no verdict without a target, found %q", none.verdict())
	}
}

func TestFiguresOfOtherRowsSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	r, err := loadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Figures = []Figure{{Row: "burst", What: "b", Values: []float64{1}}, {Row: "size", What: "a", Values: []float64{1}}}
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	if r, err = loadReport(path); err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) != 2 || r.Figures[0].Row != "size" {
		t.Fatalf("expected both rows in the table's order, found %+v", r.Figures)
	}
	r.forget("size")
	if len(r.Figures) != 1 || r.Figures[0].Row != "burst" {
		t.Errorf("expected the other row to stay, found %+v", r.Figures)
	}
}

func TestDocsKeepWhatIsOutsideOfTheMarkers(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+docsBegin+"\nold\n"+docsEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &Report{Figures: []Figure{{Row: "size", What: "binary edgecore", Unit: "MB", Limit: atMost(66), Values: []float64{64.5}, Median: 64.5, Note: "a note"}}}
	for range 2 {
		if err := r.writeDocs(page); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if !strings.HasPrefix(got, "before\n"+docsBegin) || !strings.HasSuffix(got, docsEnd+"\nafter\n") || strings.Contains(got, "old") ||
		strings.Count(got, "| size | binary edgecore | <= 66 | 64.5 |") != 1 || !strings.Contains(got, "a note") {
		t.Errorf("expected the figures between the markers and the rest unchanged, found:\n%s", got)
	}
	if err := os.WriteFile(page, []byte("no markers"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.writeDocs(page); err == nil || !strings.Contains(err.Error(), docsEnd) {
		t.Errorf("expected a page without markers to be refused, found %v", err)
	}
}

func TestAuditTellsCloudCoresOwnRequestsFromTheNodes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	event := func(second int, rest string) string {
		return `{"requestReceivedTimestamp":"2026-01-01T00:00:0` + string(rune('0'+second)) + `.000000Z","verb":"patch"` + rest + "}\n"
	}
	log := event(1, `,"objectRef":{"resource":"configmaps"}`) + // too early
		event(3, `,"objectRef":{"resource":"configmaps"}`) +
		event(3, `,"objectRef":{"resource":"leases"}`) +
		event(4, `,"objectRef":{"resource":"pods"},"impersonatedUser":{"username":"system:node:a"}`) +
		event(4, "") + // no object: a request for discovery or health
		event(9, `,"objectRef":{"resource":"configmaps"}`) // too late
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	got, err := readAudit(path, at(2), at(5))
	if want := (requests{leases: 1, node: 1, others: 2}); err != nil || got != want {
		t.Errorf("expected %+v, found %+v, %v", want, got, err)
	}
}

func TestOwnProcessIsMeasured(t *testing.T) {
	rss, anon, err := resident(os.Getpid())
	if err != nil || anon <= 0 || rss < anon {
		t.Errorf("expected memory, of which some is anonymous, found %v and %v, %v", rss, anon, err)
	}
	before, err := used(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// Time is told in ticks: after 20 of them one more or less is 5%. On a busy machine this process gets a part of a core only.
	after := before
	for err == nil && after.cpu-before.cpu < 20*clockTick && time.Since(before.at) < time.Minute {
		after, err = used(os.Getpid())
	}
	most := 150 * float64(runtime.NumCPU())
	if percent := after.since(before); err != nil || percent <= 0 || percent > most {
		t.Errorf("expected a busy process to use up to %v%% of a core, found %v%%, %v", most, percent, err)
	}
}

func TestMetricsOfOneNameAreAddedUp(t *testing.T) {
	got := sumMetrics("# HELP a b 7\na_total{code=\"200\",verb=\"x y\"} 2\na_total{code=\"409\"} 1.5\ngo_goroutines 12\nbad\n")
	if want := map[string]float64{"a_total": 3.5, "go_goroutines": 12}; !maps.Equal(got, want) {
		t.Errorf("expected %v, found %v", want, got)
	}
}

func TestValuesOfAMetricAreToldApartByTheirLabel(t *testing.T) {
	text := "a_bytes{what=\"twin\"} 2\na_bytes{what=\"objects\"} 1.5e+06\nb_bytes{what=\"twin\"} 9\na_bytes{class=\"twin\"} 9\na_bytes 9\n"
	if got, want := metricBy(text, "a_bytes", "what"), map[string]float64{"twin": 2, "objects": 1.5e6}; !maps.Equal(got, want) {
		t.Errorf("expected %v, found %v", want, got)
	}
}

func TestWhatTheLogTookIsToldByWhatItWasFor(t *testing.T) {
	before := map[string]float64{"twin": 1 << 20, "objects": 5}
	after := map[string]float64{"twin": 2 << 20, "objects": 5, "copy": 3 << 20}
	if got, want := logged(before, after, 0.5), "8 MiB, copy 6, twin 2"; got != want {
		t.Errorf("expected %q, found %q", want, got)
	}
}

func TestSlopeIsThatOfALine(t *testing.T) {
	if got := slope([]float64{0, 1, 2, 3}, []float64{5, 7, 9, 11}); math.Abs(got-2) > 1e-9 {
		t.Errorf("expected 2, found %v", got)
	}
	if got := slope([]float64{0, 1, 2}, []float64{3, 9, 3}); math.Abs(got) > 1e-9 {
		t.Errorf("expected a peak in the middle to be no growth, found %v", got)
	}
	if got := slope([]float64{1}, []float64{3}); got != 0 {
		t.Errorf("expected no slope of one point, found %v", got)
	}
}

func TestValuesThatAreNumbersAreSeen(t *testing.T) {
	s := &v1beta1.DeviceStatus{}
	s.Name = "pump"
	s.Status.Twins = []v1beta1.Twin{{PropertyName: "a", Reported: &v1beta1.TwinProperty{Value: "7"}}, {PropertyName: "b"},
		{PropertyName: "c", Reported: &v1beta1.TwinProperty{Value: "warm"}}}
	if got := reportedValues(s); len(got) != 1 || got["pump/a"] != 7 {
		t.Errorf("expected pump/a to be 7 and nothing else, found %v", got)
	}
}

func TestAWatcherKnowsWhenItSawWhatFirst(t *testing.T) {
	events := watch.NewFake()
	w := newWatcher(t.Context(), "a fake", func(context.Context) (watch.Interface, error) { return events, nil }, reportedValues)
	show := func(value string) {
		s := &v1beta1.DeviceStatus{}
		s.Name, s.Status.Twins = "pump", []v1beta1.Twin{{PropertyName: "a", Reported: &v1beta1.TwinProperty{Value: value}}}
		events.Modify(s)
	}
	begun := time.Now()
	show("1")
	first, err := w.saw(t.Context(), "pump/a", 1, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	show("1")
	show("2")
	last, err := w.sawAll(t.Context(), map[string]int{"pump/a": 2}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.saw(t.Context(), "pump/a", 1, time.Minute)
	if err != nil || !again.Equal(first) || last.Before(first) {
		t.Errorf("1 was seen at %v, then at %v, and 2 at %v, %v", first, again, last, err)
	}
	if n := w.distinct("pump/a", begun, last); n != 2 {
		t.Errorf("expected two numbers, found %d", n)
	}
	if _, err := w.saw(t.Context(), "pump/b", 1, time.Millisecond); err == nil || !strings.Contains(err.Error(), "pump/b") {
		t.Errorf("expected an error that names what was not seen, found %v", err)
	}
}

func TestAChildIsFoundByAWordOfItsArguments(t *testing.T) {
	cmd := exec.Command("cat", "-", "-u")
	in, err := cmd.StdinPipe() // it reads until the test ends
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if pid, err := child(os.Getpid(), "-u"); err != nil || pid != cmd.Process.Pid {
		t.Errorf("found %d, %v, expected %d", pid, err, cmd.Process.Pid)
	}
	if _, err := child(os.Getpid(), "-"+"-absent"); err == nil || !strings.Contains(err.Error(), "--absent") {
		t.Errorf("expected an error that names the word, found %v", err)
	}
}

func TestALimitHoldsOnlyForANodeThatIsAtRest(t *testing.T) {
	well := within{cpu: 1.5, faults: 445, node: true}
	if !well.holds() {
		t.Errorf("expected a limit with %s to hold", well)
	}
	for why, change := range map[string]func(*within){
		"it ended":            func(w *within) { w.failed = "it ended" },
		"it is busy":          func(w *within) { w.cpu = 37 },
		"it waits for a disk": func(w *within) { w.faults = 42501 },
		"it is not Ready":     func(w *within) { w.node = false },
	} {
		w := well
		change(&w)
		if w.holds() {
			t.Errorf("%s: expected a limit with %s not to hold", why, w)
		}
	}
}
