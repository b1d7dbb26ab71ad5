package run

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a root whose files tell of 24 GiB and of the group that this process is in.
type machine string

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine(t.TempDir())
	m.write(t, "proc/meminfo", "MemTotal: 25165824 kB\n")
	m.write(t, "proc/self/cgroup", "0::/tether\n")
	return m
}

func (m machine) write(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join(string(m), file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// limit is what the group says.
func (m machine) limit(t *testing.T, text string) {
	t.Helper()
	m.write(t, "sys/fs/cgroup/tether/memory.max", text+"\n")
}

// untouched puts the settings of the collector and of the program's pages back after the test.
func untouched(t *testing.T) {
	runtime.GC() // what another test held is live until then
	percent, limit := debug.SetGCPercent(77), debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
		readSingly(false)
	})
}

func TestMemoryKeepsToItsGroupWithinSeconds(t *testing.T) {
	untouched(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		root := newMachine(t)
		m := &Memory{root: string(root)}
		defer m.Busy()()
		done := make(chan error, 1)
		go func() { done <- m.Start(ctx) }()
		want := func(what string, limit int64, percents ...uint64) {
			t.Helper()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if got := debug.SetMemoryLimit(-1); got != limit {
				t.Errorf("%s: the limit is %d, expected %d", what, got, limit)
			}
			if got := percent(); got < percents[0] || got > percents[1] {
				t.Errorf("%s: GOGC is %d, expected %d to %d", what, got, percents[0], percents[1])
			}
		}
		want("no group", math.MaxInt64, 400, 1600)
		root.limit(t, "max")
		want("a group without a limit", math.MaxInt64, 400, 1600)
		root.limit(t, "83886080")
		want("80 MiB", 40<<20, defaultPercent, 200)
		root.limit(t, "536870912")
		want("512 MiB", 432<<20, 200, 800)
		root.limit(t, "max")
		want("the limit is taken away", math.MaxInt64, 400, 1600)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWhoSetsAnEnvironmentVariableOfGoDecides(t *testing.T) {
	for variable, c := range map[string]struct {
		limit   int64
		percent uint64
	}{
		"GOMEMLIMIT": {math.MaxInt64, gcPercent},
		"GOGC":       {40 << 20, 77},
	} {
		t.Run(variable, func(t *testing.T) {
			untouched(t)
			t.Setenv(variable, "off")
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				root := newMachine(t)
				root.limit(t, "83886080")
				m := &Memory{root: string(root)}
				done := make(chan error, 1)
				go func() { done <- m.Start(ctx) }()
				time.Sleep(2 * tidyEvery)
				synctest.Wait()
				if got := debug.SetMemoryLimit(-1); got != c.limit {
					t.Errorf("the limit is %d, expected %d", got, c.limit)
				}
				if got := percent(); got != c.percent {
					t.Errorf("GOGC is %d, expected %d", got, c.percent)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestGoGetsWhatTheProgramAndOthersDoNotNeed(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		group, needed uint64
		limit         int64
		why           string
	}{
		{0, 16 * mib, math.MaxInt64, "no group"},
		{80 * mib, 16 * mib, 40 * mib, "half of a small one"},
		{128 * mib, 16 * mib, 72 * mib, "48 MiB and a sixteenth are left to others"},
		{1024 * mib, 16 * mib, 912 * mib, "of a large one too"},
		{80 * mib, 60 * mib, 60 * mib, "what is needed beyond that"},
		{80 * mib, 120 * mib, 120 * mib, "and beyond the group"},
	} {
		if got := softLimit(c.group, c.needed); got != c.limit {
			t.Errorf("%d MiB, of which %d are needed: %d, expected %d: %s", c.group/mib, c.needed/mib, got, c.limit, c.why)
		}
	}
}

func TestAProgramWithLittleMemoryIsReadPageByPage(t *testing.T) {
	untouched(t)
	root := newMachine(t)
	m := &Memory{root: string(root)}
	for _, c := range []struct {
		limit  string
		singly bool
	}{{"max", false}, {"83886080", true}, {"1073741824", false}, {"268435456", true}, {"max", false}} {
		root.limit(t, c.limit)
		m.follow()
		one, large := advised(t)
		if c.singly && large > 0 || !c.singly && one > 0 || one+large < 2 {
			t.Errorf("with a limit of %s, %d mappings of this program are read page by page and %d in large pieces", c.limit, one, large)
		}
	}
}

// advised counts the mappings of this program that nobody writes to, by how they are read.
func advised(t *testing.T) (singly, large int) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		switch {
		case !strings.HasSuffix(fields[0], ":"):
			ours = fields[len(fields)-1] == program && !strings.Contains(fields[1], "w")
		case ours && fields[0] == "VmFlags:" && slices.Contains(fields, "rr"):
			singly++
		case ours && fields[0] == "VmFlags:":
			large++
		}
	}
	return singly, large
}

func TestGarbageIsGivenBackAsSoonAsAGroupIsMadeSmall(t *testing.T) {
	untouched(t)
	debug.SetGCPercent(-1) // so that what is made here stays until somebody tidies
	runtime.GC()
	const size = 64 << 20
	var blocks [][]byte
	for range size / (64 << 10) {
		blocks = append(blocks, make([]byte, 64<<10))
	}
	runtime.KeepAlive(blocks)
	blocks = nil
	if n := held(); n < size {
		t.Fatalf("%d bytes are held before the group is made small: the test proves nothing", n)
	}
	root := newMachine(t)
	root.limit(t, "83886080")
	(&Memory{root: string(root)}).follow()
	if n := held(); n > size/2 {
		t.Errorf("%d bytes are held afterwards", n)
	}
}

// held is the heap that the process holds, in bytes.
func held() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapSys - s.HeapReleased
}

func TestAHeapThatNeedsMoreThanItsLimitIsNotCollectedAllTheTime(t *testing.T) {
	untouched(t)
	const size = 64 << 20
	ballast := make([]byte, size)
	runtime.GC()
	root := newMachine(t)
	root.limit(t, "33554432")
	(&Memory{root: string(root)}).follow()
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	// A quarter of what is live is let stand, less the part that Go keeps away from its limit.
	if goal := s[0].Value.Uint64(); goal < size*6/5 {
		t.Errorf("%d MiB are live, in a group of 32, and the next collection is at %d MiB: expected it at 76 or more", size>>20, goal>>20)
	}
	runtime.KeepAlive(ballast)
}
