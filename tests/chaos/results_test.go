package chaos

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestResultsAreAppendedAndRead, also after a run that was killed while it wrote; a fault in the middle is said.
func TestResultsAreAppendedAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results")
	if none, err := Results(file); err != nil || none != nil {
		t.Fatalf("no file has results %v, %v", none, err)
	}
	want := []Result{
		{Seed: 1, Begun: time.Unix(1, 0).UTC(), Slots: []Slot{{Faults: []Planned{{Fault: "lossy", Length: time.Second}}, Rest: 2.5, Cost: account{Restarted: 1}}}},
		{Seed: 2, Begun: time.Unix(2, 0).UTC(), Failure: "it broke"},
	}
	for _, r := range want {
		if err := r.Append(file); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{"seed": 3, "beg`); err != nil {
		t.Fatal(err)
	}
	if got, err := Results(file); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v, %v; expected %+v", got, err, want)
	}
	if _, err := f.WriteString("\n{}\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := Results(file); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("a broken line in the middle: %v, expected its number", err)
	}
}

// TestTheTableHasEveryFaultAndWhatItCost: also those that were never run, and failures.
func TestTheTableHasEveryFaultAndWhatItCost(t *testing.T) {
	slot := func(rest float64, restarted int, faults ...string) Slot {
		s := Slot{Rest: rest, Cost: account{Restarted: restarted}}
		for _, f := range faults {
			s.Faults = append(s.Faults, Planned{Fault: f})
		}
		return s
	}
	failed := func(s Slot) Slot { s.Failed = true; return s }
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("# Page\n"+tableBegins+"\nold\n"+tableEnds+"\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := WriteDocs(page, []Result{
		{Seed: 1, Slots: []Slot{slot(1, 0, "lossy"), slot(3, 4, "lossy", "power-cut"), slot(2, 0, "lossy")}},
		{Seed: 2, Failure: "it broke", Slots: []Slot{slot(9, 0, "power-cut"), failed(slot(180, 0, "lossy"))}},
		{Seed: 3, Failure: "memory grew after all slots", Slots: []Slot{slot(4, 0, "far")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"3 runs of 3 seeds", "2 of them broke", "| 1 | 0 | 0 | 0 | 0 | 4.0 / 4.0 |", "| 4 | 1 | 4 | 0 | 0 | 2.0 / 3.0 |", "| 2 | 0 | 4 | 0 | 0 | 9.0 / 9.0 |", "| 0 | 0 | 0 | 0 | 0 | – |", "# Page\n", "\nend\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("expected %q in\n%s", want, text)
		}
	}
	for _, name := range Names() {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("fault %s is not in the table", name)
		}
	}
	if strings.Contains(text, "\nold\n") {
		t.Error("the former table is still there")
	}
	if err := os.WriteFile(page, []byte("# Page\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteDocs(page, nil); err == nil || !strings.Contains(err.Error(), tableBegins) {
		t.Errorf("a page without markers: %v, expected what is missing", err)
	}
}

// TestWhatASlotMayCost: nothing, but for restarts and lost events by faults that are said to cost them; a doubled event where there are two machines.
func TestWhatASlotMayCost(t *testing.T) {
	plain, restarts, forgets, rewinds := Fault{}, Fault{Restarts: true}, Fault{Forgets: 2}, Fault{Rewinds: true}
	for _, c := range []struct {
		cost account
		by   []Fault
		ok   bool
	}{
		{account{}, nil, true},
		{account{Restarted: 1}, []Fault{plain, forgets}, false},
		{account{Restarted: 1}, []Fault{plain, restarts}, true},
		{account{Restarted: 1, Lost: 1}, []Fault{rewinds}, true},
		{account{Lost: 1}, []Fault{restarts}, false},
		{account{Lost: 2}, []Fault{forgets}, true},
		{account{Lost: 3}, []Fault{forgets}, false},
		{account{Lost: 3}, []Fault{forgets, forgets}, true},
		{account{Lost: 3}, []Fault{rewinds}, true},
		{account{replaced: errors.New("another uid")}, []Fault{restarts}, false},
		{account{replaced: errors.New("another uid")}, []Fault{plain, {Replaces: true}}, true},
		{account{Doubled: 1, most: 2}, []Fault{restarts, forgets, rewinds}, false},
		{account{Doubled: 1, most: 2}, []Fault{{Twice: true}}, true},
		{account{Doubled: 1, most: 3}, []Fault{{Twice: true}}, false},
	} {
		if err := c.cost.allowed(c.by); (err == nil) != c.ok {
			t.Errorf("%+v by %+v: %v", c.cost, c.by, err)
		}
	}
}

// TestWhatGrewIsSaid, by program and resource, and only that.
func TestWhatGrewIsSaid(t *testing.T) {
	one := func(memory, goroutines, files, store int64) use {
		return use{map[string]int64{"a": memory}, map[string]int64{"a": goroutines}, map[string]int64{"a": files}, store}
	}
	before := one(40<<20, 200, 50, 10<<20)
	if err := flat(before, one(75<<20, 350, 100, 40<<20)); err != nil {
		t.Errorf("within bounds: %v", err)
	}
	for _, c := range []struct {
		after use
		want  string
	}{
		{one(80<<20, 200, 50, 0), "memory of a"},
		{one(0, 400, 50, 0), "goroutines of a"},
		{one(0, 0, 110, 0), "open files of a"},
		{one(0, 0, 0, 50<<20), "the store"},
	} {
		if err := flat(before, c.after); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, expected %q alone", c.after, err, c.want)
		}
	}
}
