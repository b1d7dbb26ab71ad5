package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// unused is the heap that the process holds and does not need, in bytes.
func unused() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestMemoryThatIsNoLongerNeededIsGivenBack(t *testing.T) {
	const size = 64 << 20
	// The runtime gives back a little by itself, in the background: on a busy machine it may have done so before anybody looks.
	for try := 0; ; try++ {
		var blocks [][]byte
		for range size / (64 << 10) {
			blocks = append(blocks, make([]byte, 64<<10))
		}
		runtime.KeepAlive(blocks)
		blocks = nil
		runtime.GC()
		n := unused()
		if n >= size/2 {
			break
		}
		if try == 100 {
			t.Fatalf("%d bytes are unused before anything was given back: the test proves nothing", n)
		}
	}
	if !tidy() {
		t.Fatal("64 MiB of garbage are let stand")
	}
	if n := unused(); n > size/2 {
		t.Errorf("%d bytes are held that nobody needs", n)
	}
	if tidy() {
		t.Error("collected again though nothing was to be had")
	}
}

// percent is how much garbage stands, relative to what is live, before it is collected.
func percent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestMemoryIsSavedUnlessTheProcessIsBusy(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Fatal("GOGC is set: this test wants Go's default")
	}
	const before = 77
	was := debug.SetGCPercent(before)
	t.Cleanup(func() { debug.SetGCPercent(was) })
	var m Memory
	early := m.Busy() // before it runs
	if got := percent(); got != before {
		t.Errorf("GOGC is %d before anything runs, expected it untouched, %d", got, before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	want := func(what string, percents uint64) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); percent() != percents; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d, expected %d", what, percent(), percents)
			}
		}
	}
	wantBusy := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); percent() < defaultPercent; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d, expected %d or more", what, percent(), defaultPercent)
			}
		}
	}
	wantBusy("busy from the beginning")
	second := m.Busy()
	early()
	early()
	wantBusy("one of two is done, and says so twice")
	second()
	want("nothing is to be done", gcPercent)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestABusyProcessLetsMoreGarbageStandWhereThereIsMemory(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		live, memory uint64
		percent      int
		why          string
	}{
		{16 * mib, 24 << 30, 400, "64 MiB on a large machine"},
		{16 * mib, 512 * mib, 200, "a sixteenth of a small one"},
		{16 * mib, 80 * mib, 100, "as much as is live in a small memory group"},
		{100 * mib, 24 << 30, 100, "as much as is live where that is much"},
		{0, 24 << 30, 1600, "64 MiB before the first collection"},
		{16 * mib, 0, 100, "Go's default where the memory is not known"},
	} {
		if got := busyPercent(c.live, c.memory); got != c.percent {
			t.Errorf("GOGC is %d with %d MiB live of %d, expected %d: %s", got, c.live/mib, c.memory/mib, c.percent, c.why)
		}
	}
}

func TestTheMemoryOfAProcessIsThatOfItsGroups(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"nothing is known":         {nil, 0},
		"the machine's":            {map[string]string{"proc/meminfo": "MemTotal:  2048 kB\nMemFree: 1 kB\n"}, 2 << 20},
		"v2, the group's":          {map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1048576\n"}, 1 << 20},
		"v2, one above":            {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "4096\n"}, 4096},
		"v1":                       {map[string]string{"proc/self/cgroup": "4:cpu:/x\n3:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8192\n"}, 8192},
		"v1 without a limit":       {map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "3:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 2 << 20},
		"a path that leads astray": {map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/../../x\ngarbage\n"}, 2 << 20},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(root, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got := memoryOf(root); got != c.want {
			t.Errorf("%s: %d bytes, expected %d", name, got, c.want)
		}
	}
	if memoryOf("/") == 0 {
		t.Error("this machine's memory is not known")
	}
}
