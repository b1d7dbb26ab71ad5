package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
)

// A report of a device that is on the disk before it is acknowledged costs the flash little more than the block that its page is on.
func TestADurableReportCostsLittleMoreThanABlock(t *testing.T) {
	flash := newFlash(t, 64)
	s, _ := running(t, testConfig(filepath.Join(flash.dir, "s")), Deps{})
	note := func(i int) {
		if err := s.Keep(t.Context(), []Note{{Bucket: "twin", Key: fmt.Sprintf("shop/meter-%03d/p", i%10), Value: fmt.Appendf(nil, `{"reported":{"value":"%d"},"metadata":{"timestamp":"1732650000000"}}`, 1000+i)}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range checkpointEach + 100 { // until the log has its size: a file that grows costs the file system's journal
		note(i)
	}
	const n = 600
	before := flash.wear(t)
	for i := range n {
		note(i)
	}
	if each := (flash.wear(t) - before) / n; each > 7<<10 {
		t.Errorf("a report costs %d bytes of flash, expected a block of 4096, at times a second one, and their share of a checkpoint", each)
	} else {
		t.Logf("a report costs %d bytes of flash", each)
	}
}

// What spares the flash a write loses nothing in a power cut: not in a log that grows, nor in one that is written anew.
func TestAcknowledgedNotesOutliveThePowerOfExt4(t *testing.T) {
	flash := newFlash(t, 64)
	cfg := testConfig(filepath.Join(flash.dir, "s"))
	key := func(i int) string { return fmt.Sprintf("k%d", i%50) }
	last := map[string]string{}
	for cut, n := range []int{3, 40, 700, 900} { // a log takes 256 pages before it begins anew
		s, err := Open(t.Context(), cfg, Deps{Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		if err := s.Notes(t.Context(), "b", func(key string, value []byte) error { got[key] = string(value); return nil }); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, last) || s.Status().Damaged != "" {
			t.Fatalf("after cut %d: %v (damaged: %q), expected %v", cut, got, s.Status().Damaged, last)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.w.loop(ctx) }()
		for i := range n {
			value := fmt.Sprintf("%d-%d", cut, i)
			if err := s.Keep(t.Context(), []Note{{Bucket: "b", Key: key(i), Value: []byte(value)}}); err != nil {
				t.Fatal(err)
			}
			last[key(i)] = value
		}
		flash.losePower(t)
		cancel()
		_ = errors.Join(<-done, s.Close()) // nothing works any more
		flash.boot(t)
	}
}

// An operator who sees that the flash wears can tell for what.
func TestWhatIsWrittenIsCountedByWhatItIsFor(t *testing.T) {
	registry := prometheus.NewRegistry()
	s, _ := running(t, testConfig(t.TempDir()), Deps{Registerer: registry})
	by := func() map[string]int64 {
		out := map[string]int64{}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "tether_store_written_bytes_total" {
				for _, m := range f.GetMetric() {
					out[m.GetLabel()[0].GetValue()] = int64(m.GetCounter().GetValue())
				}
			}
		}
		return out
	}
	const page = pageSize
	if got := by()["start"]; got < 10*page {
		t.Errorf("a new database counts %d bytes at its start, expected its tables", got)
	}
	for _, c := range []struct {
		what        string
		least, most int64 // pages
		write       func()
	}{
		{"twin", 100, 130, func() {
			for i := range 100 {
				if err := s.Keep(t.Context(), []Note{{Bucket: "twin", Key: "k", Value: fmt.Append(nil, i)}}); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"mqtt", 1, 4, func() {
			if err := s.Keep(t.Context(), []Note{{Bucket: "mqtt/sessions", Key: "k", Value: []byte("value")}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"objects", 10, 20, func() {
			s.mustBatch(t, upsert(t, object.ConfigMaps, configMap("a", "u", 5, strings.Repeat("x", 10*page))))
		}},
		{"outbox", 3, 20, func() {
			if err := s.enqueue(t, event("e", 3*page)); err != nil {
				t.Fatal(err)
			}
		}},
		{"copy", 10, 100, func() {
			s.markAll(t)
			if err := s.copies.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		before := by()
		c.write()
		after := by()
		if got := after[c.what] - before[c.what]; got < c.least*page || got > c.most*(page+24) {
			t.Errorf("%s: %d bytes more, expected %d to %d pages of %d; all: %v", c.what, got, c.least, c.most, page, after)
		}
	}
}

// Who exceeds the budget is told, with the name of what wrote most, and once an hour.
func TestABudgetThatIsExceededIsTold(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newSpent(1000, m)
	w.add(0, "twin", 600)
	w.add(1, "objects", 400)
	if over := w.look(1); over != nil {
		t.Errorf("just the budget: told %+v", over)
	}
	w.add(30, "twin", 1)
	if over := w.look(30); over == nil || *over != (Overspent{Bytes: 1001, Budget: 1000, Most: "twin", MostBytes: 601}) {
		t.Errorf("one byte more: told %+v", over)
	}
	w.add(40, "twin", 5000)
	if over := w.look(40); over != nil {
		t.Errorf("told again within the hour: %+v", over)
	}
	if over := w.look(90); over == nil || over.Bytes != 5000 {
		t.Errorf("an hour later told %+v, expected the 5000 bytes of the last hour", over)
	}
	if over := w.look(151); over != nil {
		t.Errorf("nothing was written for an hour: told %+v", over)
	}
	w.add(100_000, "twin", 1001)
	if over := w.look(100_000); over == nil || over.Bytes != 1001 {
		t.Errorf("long after: told %+v, expected 1001 bytes", over)
	}
}
