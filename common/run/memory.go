package run

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// gcPercent halves what Go's collector lets stand as garbage. Measured (docs/benchmarks.md): a hub session costs 43 KiB
// instead of 53, for less than a tenth more CPU in the collector.
const gcPercent = 50

// tidyEvery is how often memory is looked at; tidyLeast and tidyShare, in bytes and as a share of what is live, are how
// much garbage and unused memory are let stand.
const (
	tidyEvery = time.Minute
	tidyLeast = 4 << 20
	tidyShare = 0.25
)

// defaultPercent is Go's own. busyShare of the memory that the process may use, and no more than busyMost, is let stand as
// garbage by a process that is busy, in bytes, if that is more than Go's own would be.
const (
	defaultPercent = 100
	busyShare      = 1.0 / 16
	busyMost       = 64 << 20
)

// Memory makes the process collect garbage earlier than Go's default does, give back once a minute what it does not
// need, of its program too, and keep to what its control group allows: gateways are small, and a hub's memory is mostly sessions at rest, whose
// connecting leaves more garbage than they are. Who sets GOGC decides the first two for himself, who sets GOMEMLIMIT the last. The
// zero Memory is ready.
type Memory struct {
	root    string     // where the machine's files are; "/" if it is empty, as it is but in tests
	singly  bool       // whether the program's pages are read one by one; Start's alone
	mu      sync.Mutex // guards all below
	started bool
	busy    int
}

// Busy lets more garbage stand until done is called: what makes much of it, such as a kubelet that prints a large file, would
// spend a third of its time on collecting. That is as much as is live, which is Go's default, or a sixteenth of the memory
// that the process may use, but no more than 64 MiB.
func (m *Memory) Busy() (done func()) {
	m.count(1)
	return sync.OnceFunc(func() { m.count(-1) })
}

func (m *Memory) count(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.busy > 0
	if m.busy += n; was != (m.busy > 0) {
		m.set() // which stops the world for a moment
	}
}

// again sets what holds while busy anew: the same share of more that is live, or that may be used, is more.
func (m *Memory) again() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy > 0 {
		m.set()
	}
}

// live is how much was live at the last collection, in bytes.
func live() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// busyPercent is how much garbage a busy process lets stand, in percent of what is live. memory is what it may use, in bytes;
// 0 if that is not known.
func busyPercent(live, memory uint64) int {
	garbage := min(busyMost, busyShare*float64(memory))
	return max(defaultPercent, int(100*garbage/float64(max(live, tidyLeast))))
}

// set applies what holds now. It is called with mu held.
func (m *Memory) set() {
	switch {
	case !m.started:
	case m.busy > 0:
		debug.SetGCPercent(busyPercent(live(), memoryOf(m.files())))
	default:
		debug.SetGCPercent(gcPercent)
	}
}

// Start runs until ctx is done.
func (m *Memory) Start(ctx context.Context) error {
	var looks, tidies <-chan time.Time
	if os.Getenv("GOGC") == "" {
		m.mu.Lock()
		m.started = true
		m.set()
		m.mu.Unlock()
		tick := time.NewTicker(tidyEvery)
		defer tick.Stop()
		tidies = tick.C
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		m.follow()
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		looks = tick.C
	}
	for {
		select {
		case <-looks:
			m.follow()
		case <-tidies:
			tidy()
			if !m.singly { // what is taken out could be gone from the page cache before it is needed again
				unmapProgram()
			}
			m.again()
		case <-ctx.Done():
			return nil
		}
	}
}

// tidy collects garbage and gives memory back to the system, if there is enough of it, and reports whether it did.
func tidy() bool {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	live := s[0].Value.Uint64()
	held := s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()
	if held < live+garbageLeast(live) {
		return false
	}
	debug.FreeOSMemory()
	return true
}

// garbageLeast is how much garbage and unused memory is let stand at least beside what is live, in bytes.
func garbageLeast(live uint64) uint64 { return max(tidyLeast, uint64(tidyShare*float64(live))) }
