package store

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// What is written where no row says it.
const (
	wornStart  = "start"  // opening the database: migrations, repair, sealing anew
	wornUpkeep = "upkeep" // giving room back
	wornCopy   = "copy"   // the second copy
	wornOther  = "other"  // transactions without a row, and those that failed
)

// What rows count as, beside those of notes: these count as their bucket, up to a slash in its name.
const (
	wornObjects = "objects"
	wornOutbox  = "outbox"
	wornTokens  = "tokens"
	wornState   = "state" // meta, kinds, losses
)

// Overspent says that the store wrote more within an hour than its budget.
type Overspent struct {
	// Bytes is what it wrote, Budget what it was to write at most.
	Bytes, Budget int64
	// Most is what most of it was written for, as in the metric tether_store_written_bytes_total, and MostBytes how much.
	Most      string
	MostBytes int64
}

// spent counts the bytes that SQLite writes, by what they are written for, and holds those of the last hour against a budget. What
// the file system adds (its journal, whole blocks) is not in them.
type spent struct {
	budget  int64 // bytes an hour; 0 for none
	metrics *metrics
	begun   time.Time // with a monotonic part: the clock may be put right meanwhile

	// mu guards the fields below.
	mu sync.Mutex
	// minutes are the bytes of the last hour, the one of minute m at m % 60; minute is the latest.
	minutes [60]map[string]int64
	minute  int64
	warned  int64 // the minute of the last warning; -1 for none
}

func newSpent(budget int64, m *metrics) *spent {
	m.budget.Set(float64(budget))
	return &spent{budget: budget, metrics: m, begun: time.Now(), warned: -1}
}

func (w *spent) now() int64 { return int64(time.Since(w.begun) / time.Minute) }

// add counts bytes at a minute since the start.
func (w *spent) add(minute int64, what string, bytes int64) {
	if bytes <= 0 {
		return
	}
	w.metrics.written.WithLabelValues(what).Add(float64(bytes))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn(minute)
	m := &w.minutes[w.minute%int64(len(w.minutes))]
	if *m == nil {
		*m = map[string]int64{}
	}
	(*m)[what] += bytes
}

// turn forgets what is older than an hour. Called with mu held.
func (w *spent) turn(minute int64) {
	for w.minute < minute {
		w.minute = max(w.minute+1, minute-int64(len(w.minutes)))
		w.minutes[w.minute%int64(len(w.minutes))] = nil
	}
}

// share counts the bytes of a transaction. rows are the bytes of its rows, by what: pages are shared, so the bytes are divided in
// that proportion.
func (w *spent) share(rows map[string]int64, bytes int64) {
	var all int64
	for _, n := range rows {
		all += n
	}
	if all == 0 {
		w.add(w.now(), wornOther, bytes)
		return
	}
	for what, n := range rows {
		w.add(w.now(), what, bytes*n/all)
	}
}

// look brings the gauge up to date. over is not nil where the budget was exceeded and nobody was told of that within the hour.
func (w *spent) look(minute int64) (over *Overspent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn(minute)
	by := map[string]int64{}
	sum := int64(0)
	for _, m := range w.minutes {
		for what, n := range m {
			by[what] += n
			sum += n
		}
	}
	w.metrics.hour.Set(float64(sum))
	if w.budget == 0 || sum <= w.budget || w.warned >= 0 && minute-w.warned < int64(len(w.minutes)) {
		return nil
	}
	w.warned = minute
	most := slices.MaxFunc(slices.Sorted(maps.Keys(by)), func(a, b string) int { return cmp.Compare(by[a], by[b]) })
	return &Overspent{Bytes: sum, Budget: w.budget, Most: most, MostBytes: by[most]}
}

// account tells of a budget that is exceeded, once an hour.
func (s *Store) account() {
	over := s.spent.look(s.spent.now())
	if over == nil {
		return
	}
	s.log.Warn("the store has written more within an hour than store.writeBudget: find out who writes so much, for flash wears by what is written",
		"bytes", over.Bytes, "budget", over.Budget, "most", over.Most, "mostBytes", over.MostBytes)
	if s.overspent != nil {
		s.overspent(*over)
	}
}

// rowCost is what a row counts beside its body, in bytes: its key, and that it is there.
const rowCost = 64

// touch notes that a row was written or removed, for share.
func (c *conn) touch(what string, body int) {
	if c.rows != nil {
		c.rows[what] += int64(body) + rowCost
	}
}

// worn is what notes of a bucket count as.
func worn(bucket string) string {
	part, _, _ := strings.Cut(bucket, "/")
	return part
}
